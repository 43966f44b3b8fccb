"""Random fault plans: every one ends, with every batch trained once a block, in order.

This is also the test of runtime/testing/simulated_faults.py and faulty_simulation.py.
"""

import pytest

from runtime.faults.plan import KINDS, parse
from runtime.testing import simulated_faults
from runtime.testing.faulty_simulation import FaultySimulation
from runtime.testing.hashed_blocks import Case, reference
from runtime.testing.simulated_faults import PlanFailed, random_plan, run_plan

NUM_PLANS, A_TEST = 300, 25


@pytest.mark.parametrize("first", range(0, NUM_PLANS, A_TEST))
def test_random_plans_end_as_the_plain_loop_does(first):
    for seed in range(first, first + A_TEST):
        run_plan(seed)


def test_plans_draw_every_kind():
    drawn = {fault.kind for seed in range(NUM_PLANS) for fault in random_plan(seed)[1]}
    assert drawn == set(KINDS)


def test_one_seed_gives_one_plan_and_one_history():
    assert random_plan(7) == random_plan(7)
    assert run_plan(7) == run_plan(7)
    assert run_plan(7).fired.total() > 0


CASE = Case(
    num_workers=3,
    num_steps=12,
    lag=1,
    tied=True,
    size=2,
    spare=0,
    snapshot_every=3,
    checkpoint_every=4,
)


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_alone_fires_once_and_is_borne(kind):
    place = {"block": ":1", "edge": ":0-1", "job": ""}[KINDS[kind].place.name.lower()]
    (fault,) = parse(f"{kind}{place}@5")
    simulation = FaultySimulation(CASE, [fault], seed=1)
    simulation.run()
    counted = simulation.judge()
    assert simulation.fired == {kind: 1}
    if kind in ("kill", "segfault", "exit", "oom", "hang", "spin", "zombie", "kill-restarting"):
        assert counted["resent"] > 0
        generations = 2 if kind == "kill-restarting" else 1
        assert simulation.workers[1].core.generation == generations


@pytest.mark.parametrize("stop_s", [0.0, 0.01, 0.05, 0.1])
def test_stop_ends_every_worker_at_one_step(stop_s):
    simulation = FaultySimulation(CASE, parse("kill:0@3,drop:0-1@4"), seed=2, stop_s=stop_s)
    simulation.run()
    simulation.judge()
    ends = {worker.core.end for worker in simulation.workers}
    assert len(ends) == 1
    assert ends <= set(range(13))


def test_killed_job_goes_on_from_the_newest_whole_checkpoint():
    faults = parse("torn:2@8,job-kill@10")
    simulation = FaultySimulation(CASE, faults, seed=3)
    begun = []
    begin_life = simulation._begin_life
    simulation._begin_life = lambda k, core, *rest: (
        begun.append((k, core.step, core.generation)),
        begin_life(k, core, *rest),
    )
    simulation.run()
    simulation.judge()
    assert begun == [(0, 4, 0), (1, 4, 0), (2, 4, 0)]  # the one before step 8 is damaged


def test_wrong_end_is_told_with_its_seed_and_plan(monkeypatch):
    _, faults = random_plan(5)
    monkeypatch.setattr(
        "runtime.testing.faulty_simulation.reference",
        lambda case, end: [0, *reference(case, end)[1:]],
    )
    with pytest.raises(PlanFailed) as caught:
        simulated_faults.run_plan(5)
    told = str(caught.value)
    assert told.startswith("seed 5: AssertionError: workers [0] end with other weights")
    assert ",".join(map(str, faults)) in told
