"""What blocks cost by counted FLOPs."""

import pytest

from launch.planning.costs import Costs, counted_costs

from ..runs import light

SAMPLES = 2 * 64
FIRST, UNIT = 2 * 256 * 64, 2 * 64 * 64  # forward FLOPs of the mlp's layers for one image
HEAD = 2 * (64 * 256 + 256 * 64)


def test_blocks_cost_is_that_of_home_guest_and_head():
    run = light(workers=2, cuts=(0, 2))
    costs = counted_costs(run)
    lower, upper = (costs.of(block) for block in run.partition.blocks)
    assert lower.home_forward == SAMPLES * (FIRST + UNIT)
    assert lower.step == SAMPLES * (2 * FIRST + 3 * UNIT + 3 * UNIT + 3 * HEAD)
    assert upper.home_forward == SAMPLES * 2 * UNIT
    assert upper.step == SAMPLES * 3 * (2 * UNIT + HEAD)


def test_recomputing_is_a_forward_more_of_each_unit():
    """The head is not run again."""
    run = light(workers=2, cuts=(0, 2), recompute=True)
    costs = counted_costs(run)
    lower, upper = (costs.of(block) for block in run.partition.blocks)
    assert lower.home_forward == SAMPLES * (FIRST + UNIT)
    assert lower.step == SAMPLES * (3 * FIRST + 4 * UNIT + 4 * UNIT + 3 * HEAD)
    assert upper.step == SAMPLES * (4 * 2 * UNIT + 3 * HEAD)


@pytest.mark.parametrize("recompute", [False, True])
def test_guest_that_is_not_trained_has_no_gradient_for_its_weights(recompute):
    """It was counted like one that is: cuts that were balanced under follow were not."""
    run = light(workers=4, tie="follow", recompute=recompute)
    costs, unit = counted_costs(run), 2
    assert costs.units[unit].step == (4 if recompute else 3) * costs.units[unit].forward
    assert costs.guests[unit].step == (3 if recompute else 2) * costs.guests[unit].forward
    block = run.partition.blocks[1]
    assert block.guest == range(2, 3)
    parts = [costs.units[1], costs.guests[2], costs.heads[2][1]]
    assert costs.of(block).step == sum(part.step for part in parts)


def test_end_to_end_has_every_unit_once_and_one_head():
    costs = counted_costs(light(workers=4))
    assert costs.end_to_end() == SAMPLES * (2 * FIRST + 3 * 3 * UNIT + 3 * HEAD)


def test_each_block_has_its_own_head():
    workload = light(workers=2, decoder_depth=(0, 1))
    shallow, deep = counted_costs(workload).heads[3]
    assert shallow.forward == SAMPLES * HEAD
    assert deep.forward == SAMPLES * (HEAD + 2 * 2 * 64 * 64)


@pytest.mark.parametrize("workers", [1, 3])
def test_costs_travel_as_plain_values(workers):
    costs = counted_costs(light(workers=workers))
    assert Costs.from_dict(costs.as_dict()) == costs
