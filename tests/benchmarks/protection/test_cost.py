"""What protection costs, by stretches of one run in which it is on and off in turn."""

import pytest

from benchmarks.protection.cost import STRETCH, cost, is_off, stretches


def metrics(*step_s: float, blocks: int = 2) -> list[dict]:
    """Steps of stretches that take so long a step, the first among them."""
    found = []
    for block in range(blocks):
        t = 100.0 + block
        for stretch, each_s in enumerate(step_s):
            for step in range(stretch * STRETCH, (stretch + 1) * STRETCH):
                t += each_s
                found.append({"block": block, "step": step, "t": t})
    return found


def test_stretches_are_on_and_off_in_turn():
    assert [is_off(step) for step in (0, STRETCH - 1, STRETCH, 2 * STRETCH - 1, 2 * STRETCH)] == [
        *(False, False, True, True, False)
    ]


def test_rate_is_a_stretchs_own_and_the_warm_up_is_left_out():
    found = stretches(metrics(9.0, 0.5, 0.25, 0.5))
    assert [off for off, _ in found] == [True, False]
    assert [rate for _, rate in found] == pytest.approx([2.0, 4.0])


def test_rate_of_a_stretch_is_the_mean_over_blocks():
    slow = [record | {"block": 1} for record in metrics(9.0, 1.0, 1.0, blocks=1)]
    ((_, rate),) = stretches(metrics(9.0, 0.5, 0.5, blocks=1) + slow)
    assert rate == pytest.approx(1 / 0.75)


def test_cost_is_each_stretchs_between_its_neighbours():
    """On 8, off 10: 20 %; and off 10 between on 8 and 9: 15 %."""
    rates = [(True, 10.0), (False, 8.0), (True, 10.0), (False, 9.0)]
    assert cost(rates) == pytest.approx([0.2, 0.15])


def test_machine_that_grows_slower_costs_nothing():
    """A drift of 1 a stretch is the same for on and off."""
    assert cost([(i % 2 == 0, 20.0 - i) for i in range(7)]) == pytest.approx([0.0] * 5)
