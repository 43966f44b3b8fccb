"""What costs and memory follow from, before a run is cut: samples, windows, heads.

A resolved run (launch/planning/resolved.py) is one that is cut.
"""

import pytest

from launch.planning.partition import Block

from ..runs import light, resolved


def test_sample_is_a_view_of_an_image():
    assert light(batch_size=7).num_samples == 14


def test_window_is_the_resolved_one():
    assert light(lag=3).window == 4
    assert light(window=5).window == 5


def test_head_is_as_wide_as_the_objective_wants():
    by_default, by_labels = light(), light(objective="cross-entropy")
    assert by_default.head(0, 0).out_features is None
    assert by_labels.head(0, 0).out_features == by_labels.num_classes == 10


@pytest.mark.parametrize(
    ("home", "guest", "top"), [(range(2), range(2, 3), 2), (range(1, 4), range(4, 4), 3)]
)
def test_head_of_a_block_stands_on_its_last_unit(home, guest, top):
    workload = resolved(workers=2, decoder_depth=(0, 2))
    block = Block(index=1, home=home, guest=guest, lent=range(0))
    assert workload.head_cost_of(block) == workload.head_cost(top, 1)
    others = workload.head_cost(top - 1, 1), workload.head_cost(top, 0)
    assert workload.head_cost_of(block) not in others


def test_resolved_run_traces_its_units_once():
    run = light()
    assert run.traces is run.traces
    assert [trace.output_shape for trace in run.traces] == [(64,)] * 4
    assert len(run.unit_costs) == len(run.network.units) == 4
