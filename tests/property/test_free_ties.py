"""Runs without a fixed lag end, train on each batch once, and keep their bound on staleness."""

from collections import Counter
from dataclasses import replace

import pytest

from runtime.core.edges import Edges
from runtime.core.free_ties import FreeIncoming, FreeOutgoing
from runtime.core.messages import Phase
from runtime.core.plan import Free, Stream
from runtime.core.streams import Outgoing, ProtocolError
from runtime.core.worker import WorkerCore
from runtime.testing.hashed_blocks import Case
from runtime.testing.simulation import Simulation, Stuck

from .free_runs import run

SEEDS = range(150)


@pytest.mark.parametrize("faults", [False, True])
@pytest.mark.parametrize("drops", [False, True])
def test_every_random_plan_ends_as_it_should(faults, drops):
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        simulation = run(seed, drops=drops, faults=faults)
        seen["faults"] += sum(simulation.fired.values())
        for worker in simulation.workers:
            seen["lost"] += worker.core.account.lost
            seen["replayed"] += worker.core.num_replayed_steps
            seen["ahead"] += sum(
                count
                for counts in worker.core.account.staleness.values()
                for steps, count in counts.items()
                if steps < 0
            )
    assert (seen["lost"] > 100) == drops
    assert (seen["faults"] > 100) == faults
    assert seen["replayed"] > 100
    assert seen["ahead"] > 100
