"""Runs without a fixed lag on the simulated network, and blocks that see whether a rule is broken.

What is used when is the timing's to decide here, so there is no plain loop to compare with. A block
notes each batch that it trains on, and looks at every tie that it is given.
"""

import random
from dataclasses import replace

from runtime.core.plan import Free
from runtime.faults.plan import Fault
from runtime.testing.faulty_simulation import FaultySimulation
from runtime.testing.hashed_blocks import Case, HashedBlock, HashedTies
from runtime.testing.simulated_faults import random_plan

NAME_BITS = 8  # below the notes, a block's weights hold its index


class NotingBlock(HashedBlock):
    """Its weights are a set of steps as bits: those whose batches it has trained on.

    A message is the step that it was made at.
    """

    def __init__(self, case: Case, k: int, weights: int) -> None:
        super().__init__(case, k, weights)
        self.free = case.free
        self.index = k
        self.num_workers = case.num_workers
        self.absent = frozenset(step for worker, step in case.absent if worker == k)
        self.num_applied = 0

    @property
    def trained(self) -> int:
        """How many batches it has trained on."""
        return (self.weights >> NAME_BITS).bit_count()

    def forward(self, step: int, incoming: int | None) -> int:
        assert incoming == (step if self.index else None)
        return step

    def update(self, step: int) -> HashedTies:
        bit = 1 << (NAME_BITS + step)
        assert self.weights < bit, f"step {step} is trained twice, or late"
        self.weights |= bit
        if step in self.absent and not self.free.keeps_newest:
            return HashedTies(None, None, absent=True)
        return HashedTies(step, step, absent=False)

    def apply(self, step: int, from_below: int | None, from_above: int | None) -> None:
        if self.free.keeps_newest and step >= self.free.max_staleness:
            assert (from_below is not None) == (self.index > 0)
            assert (from_above is not None) == (self.index + 1 < self.num_workers)
        for tie in (from_below, from_above):
            assert tie is None or step - tie <= self.free.max_staleness, (step, tie)
        self.num_applied += 1


class FreeSimulation(FaultySimulation):
    """A case with free ties under a fault plan."""

    def _block(self, k: int, weights: int) -> NotingBlock:
        return NotingBlock(self.case, k, weights)

    def _judge_weights(self, end: int) -> None:
        free = self.case.free
        for worker in self.workers:
            tie_stats, core = worker.core.tie_stats, worker.core
            assert worker.block.trained == end
            for counts in tie_stats.staleness.values():
                assert all(steps <= free.max_staleness for steps in counts)
            # A new generation may be given a gradient again that is too old for it by now.
            assert self.fired or tie_stats.stale == 0
            for incoming in core.edges.incoming.values():
                assert incoming.expected == incoming.released == end


def free_plan(seed: int, *, max_faults: int = 6) -> tuple[Case, tuple[Fault, ...]]:
    """The case and faults of a seed, with free ties in place of its lag."""
    case, faults = random_plan(seed)
    rng = random.Random(seed)
    free = Free(
        max_staleness=rng.choice([1, 2, 3, 8]),
        keeps_newest=rng.random() < 0.5,
    )
    num_workers = min(case.num_workers, 8)
    faults = tuple(
        fault
        for fault in faults[:max_faults]
        if (fault.block or 0) < num_workers and max(fault.edge or (0,)) < num_workers
    )
    return replace(case, num_workers=num_workers, lag=0, tied=True, free=free), faults


def run(seed: int, *, faults: bool = True) -> FreeSimulation:
    """Run the plan of a seed to its end and judge it."""
    case, found = free_plan(seed)
    rng = random.Random(-1 - seed)
    stop_s = rng.uniform(0.0, 0.5) if faults and rng.random() < 0.15 else None
    simulation = FreeSimulation(
        case, found if faults else (), seed=rng.getrandbits(32), stop_s=stop_s
    )
    simulation.run()
    simulation.judge()
    return simulation
