"""Both inequalities of full rate, on costs that one can do in one's head."""

import pytest

from launch.planning.costs import Cost, Costs
from launch.planning.rates import edge_rates

from ..runs import light

# Four units that take 3 each, a third of it forward; heads take nothing.
UNITS = (Cost(1.0, 3.0),) * 4
EQUAL = Costs(measured=True, units=UNITS, guests=UNITS, heads=((Cost(0.0, 0.0),) * 4,) * 4)


@pytest.mark.parametrize(
    ("lag", "tie", "slowness", "latency"),
    [(0, 7 / 6, 7 / 6, 0.0), (1, 7 / 6, 1.0, 5 / 12), (3, 7 / 6, 1.0, 17 / 12)],
)
def test_equal_blocks_want_a_lag_of_one(lag, tie, slowness, latency):
    """Homes of one unit and guests of one: T = 6, f = 1, and C = 6 but for the top's 3."""
    first, *_, last = edge_rates(light(workers=4, lag=lag, window=lag + 2), EQUAL)
    assert first.tie == pytest.approx(tie)
    assert first.tie_limit == lag + 1
    assert max(1.0, first.slowness) == pytest.approx(slowness)
    assert first.latency == pytest.approx(latency)
    assert first.least_lag == 1
    assert last.tie == pytest.approx(4 / 6)
    assert last.least_lag == 0


def test_window_alone_counts_without_a_tie():
    for settings in ({"tie": "none"}, {"overlap": 0}):
        for edge in edge_rates(light(workers=4, lag=0, **settings), EQUAL):
            assert edge.tie is None
            assert edge.slowness <= 0.5
            assert edge.least_lag == 0


def test_window_bounds_the_latency_if_it_is_smaller():
    (edge,) = edge_rates(light(workers=2, overlap=0, lag=5, window=2), EQUAL)
    assert (edge.window, edge.window_limit, edge.latency) == (1.0, 2, 0.5)


def test_one_worker_has_no_edge():
    assert edge_rates(light(workers=1), EQUAL) == []
