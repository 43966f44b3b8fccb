"""Runs without a fixed lag end, train on each batch once, and hold their bound on staleness."""

from collections import Counter
from dataclasses import replace

import pytest

from runtime.core.free_ties import FreeIncoming, FreeOutgoing
from runtime.core.messages import Phase
from runtime.core.plan import Free, Stream
from runtime.core.streams import ProtocolError
from runtime.testing.hashed_blocks import Case
from runtime.testing.simulation import Simulation, Stuck

from .free_runs import run

SEEDS = range(25)


@pytest.mark.parametrize("faults", [False, True])
def test_random_plans_all_end_as_they_should(faults):
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        simulation = run(seed, faults=faults)
        seen["faults"] += sum(simulation.fired.values())
        for worker in simulation.workers:
            seen["ahead"] += sum(
                count
                for counts in worker.core.tie_stats.staleness.values()
                for steps, count in counts.items()
                if steps < 0
            )
    assert (seen["faults"] > 20) == faults
    assert seen["ahead"] > 20


def equal_blocks(free: Free, *, latency_s: float, num_workers: int = 4) -> Simulation:
    """Blocks of 60 ms, of which 20 ms are the home's forward."""
    phases_s = {Phase.FORWARD: 0.02, Phase.UPDATE: 0.04, Phase.APPLY: 0.0}
    case = Case(num_workers=num_workers, num_steps=100, lag=0, tied=True, size=9, free=free)
    case = replace(case, slack_bytes=1000)
    return Simulation(
        [case.plan(k) for k in range(num_workers)],
        duration_s=lambda k, phase, step: phases_s[phase],
        latency_s=lambda a, b: latency_s,
    )


@pytest.mark.parametrize("keeps_newest", [True, False])
@pytest.mark.parametrize(("latency_s", "most"), [(0.0, 1), (0.06, 3)])
def test_equal_blocks_use_ties_that_are_young(keeps_newest, latency_s, most):
    """What comes down took f + L up, C there, and L down: 80 ms, or 200 ms, of 60 ms a step."""
    free = Free(max_staleness=8, keeps_newest=keeps_newest)
    simulation = equal_blocks(free, latency_s=latency_s)
    seconds = simulation.run()
    assert seconds < (100 + 4) * (0.06 + 0.01) + 10 * latency_s  # no one waits
    for worker in simulation.workers:
        for counts in worker.core.tie_stats.staleness.values():
            assert all(steps <= most for steps in counts)
    down = [worker.core.tie_stats.staleness[Stream.TIE_DOWN] for worker in simulation.workers[:-1]]
    assert all(sum(counts.values()) >= 95 for counts in down)


def test_slow_block_is_waited_for_at_the_bound_alone():
    """A lower block that is twice as fast runs ahead until what comes down is as old as may be."""
    case = Case(num_workers=2, num_steps=60, lag=0, tied=True, size=30, slack_bytes=1000)
    case = replace(case, free=Free(max_staleness=5, keeps_newest=True))
    simulation = Simulation(
        [case.plan(k) for k in range(2)],
        duration_s=lambda k, phase, step: 0.02 * (1 + k),
        latency_s=lambda a, b: 0.001,
    )
    simulation.run()
    counts = simulation.workers[0].core.tie_stats.staleness[Stream.TIE_DOWN]
    assert max(counts) == 5
    assert counts[5] > 30


# Broken rules ----------------------------------------------------------------------------------


def the_bound_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(FreeIncoming, "is_fresh", lambda self, step: True)


def the_bound_is_one_step_longer(monkeypatch):
    allows = Free.allows
    monkeypatch.setattr(Free, "allows", lambda self, step, message: allows(self, step - 1, message))


def a_new_life_is_not_given_the_newest_again(monkeypatch):
    def rewind(self, wanted):
        self.sent = min(max(wanted, self.made), self._sendable)
        self.released = self.durable = self.sent

    monkeypatch.setattr(FreeOutgoing, "rewind", rewind)


def a_gradient_is_used_twice(monkeypatch):
    take = FreeIncoming.take

    def take_and_retain(self, step):
        here = self._usable
        found = take(self, step)
        self._usable = here
        return found

    monkeypatch.setattr(FreeIncoming, "take", take_and_retain)


def a_worker_leaves_before_it_has_heard_all(monkeypatch):
    monkeypatch.setattr(FreeIncoming, "accept", lambda self, step, *, checksum, absent: False)


BROKEN = [
    the_bound_is_not_waited_for,
    the_bound_is_one_step_longer,
    a_new_life_is_not_given_the_newest_again,
    a_gradient_is_used_twice,
    a_worker_leaves_before_it_has_heard_all,
]


@pytest.mark.parametrize("break_it", BROKEN)
def test_some_plan_fails_without_the_rule(break_it, monkeypatch):
    break_it(monkeypatch)

    def run_all() -> None:
        for seed in SEEDS:
            run(seed, faults=False)
            run(seed)

    with pytest.raises((Stuck, AssertionError, ProtocolError, KeyError)):
        run_all()
