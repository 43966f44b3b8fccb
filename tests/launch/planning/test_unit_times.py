"""Times of units and heads, measured: what is measured, not how long it takes."""

import pytest
import torch

from launch.planning import unit_times
from launch.planning.costs import Cost
from launch.planning.unit_times import measured_costs, measured_step

from ..runs import light, resolved


def test_every_unit_and_possible_head_is_timed():
    workload = light(workers=2, decoder_depth=(0, 1), batch_size=2)
    costs = measured_costs(workload, device="cpu", threads=1)
    assert costs.measured
    assert len(costs.units) == len(costs.heads) == 4
    assert all(len(row) == 2 for row in costs.heads)
    parts = [*costs.units, *(cost for row in costs.heads for cost in row)]
    assert all(0 < part.forward < part.step < 1 for part in parts)
    assert costs.heads[0] == costs.heads[3]  # of one shape, so measured once
    assert costs.heads[0][0] != costs.heads[0][1]


def test_guests_are_timed_as_the_tie_treats_them():
    trained = measured_costs(light(workers=2, batch_size=2), device="cpu", threads=1)
    assert trained.guests == trained.units
    frozen = measured_costs(light(workers=2, batch_size=2, tie="follow"), device="cpu", threads=1)
    assert len(frozen.guests) == 4
    assert frozen.guests != frozen.units
    assert all(0 < guest.forward < guest.step < 1 for guest in frozen.guests[1:])


def test_step_of_a_block_is_that_of_its_parts(monkeypatch):
    timed = []

    def time(module, x_NCHW, optimizer_name, numerics):
        timed.append([p.requires_grad for p in module.parameters()])
        return Cost(1.0, 10.0 ** len(timed))

    monkeypatch.setattr(unit_times, "_time", time)
    run = light(workers=2, cuts=(0, 2), tie="follow", batch_size=2)
    block = run.partition.blocks[0]
    assert (block.home, block.guest) == (range(2), range(2, 3))
    assert measured_step(run, block, device="cpu", threads=1) == 10 + 100 + 1000 + 10000
    assert [any(trained) for trained in timed] == [True, True, False, True]


def test_threads_are_given_back():
    before = torch.get_num_threads()
    measured_costs(light(workers=1, batch_size=2), device="cpu", threads=2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_profiled_cuts_are_cuts(optimizer):
    run = resolved(cuts="profiled", workers=2, batch_size=2, optimizer=optimizer)
    assert run.measured is not None
    assert len(run.config.cuts) == 2
