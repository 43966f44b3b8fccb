"""torch.distributed.pipelining's schedules on some work's stages, as lock-step cases.

Owns how a schedule is set up and timed in one process. What stages compute is their work's
(benchmarks.lock_step.slept_work, benchmarks.lock_step.real_work).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, schedules

from benchmarks.lock_step.rank import RankTiming


def _once(num_ranks: int) -> tuple[int, ...]:
    return tuple(range(num_ranks))


def _around_twice(num_ranks: int) -> tuple[int, ...]:
    return (*range(num_ranks), *range(num_ranks))


def _there_and_back(num_ranks: int) -> tuple[int, ...]:
    return (*range(num_ranks), *reversed(range(num_ranks)))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One of torch's: its class, each stage's rank of so many ranks, and whether it runs the
    gradients of a stage's input and of its weights apart."""

    make: Any
    ranks: Callable[[int], tuple[int, ...]]
    splits_backward: bool


SCHEDULES = {
    "GPipe": Schedule(make=schedules.ScheduleGPipe, ranks=_once, splits_backward=False),
    "1F1B": Schedule(make=schedules.Schedule1F1B, ranks=_once, splits_backward=False),
    "interleaved zero-bubble": Schedule(
        make=schedules.ScheduleInterleavedZeroBubble, ranks=_around_twice, splits_backward=True
    ),
    "ZBV": Schedule(
        make=schedules.ScheduleZBVZeroBubble, ranks=_there_and_back, splits_backward=True
    ),
}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a schedule cuts a work: the rank of each stage, lowest first, and the rest."""

    ranks: tuple[int, ...]
    splits_backward: bool
    microbatches: int


class Part(Protocol):
    """One rank's stages of a work, and its data."""

    stages: list[PipelineStage]

    @property
    def slept_s(self) -> float:
        """Seconds that it asked to sleep so far."""

    @property
    def loss(self) -> float | None:
        """The last batch's, if this rank has the last stage and something is learned."""

    def begin(self, batch: int) -> tuple[list[Tensor], Tensor | None]:
        """What the schedule takes for a batch: the first stage's input, the last one's target."""

    def loss_of(self, output: Tensor, target: Tensor) -> Tensor:
        """A microbatch's loss, of the last stage's output."""

    def end(self) -> None:
        """All gradients of a batch are there."""


class Work(Protocol):
    """What a pipeline of `num_ranks` computes, `steps` batches of it."""

    @property
    def num_ranks(self) -> int: ...

    @property
    def steps(self) -> int: ...

    def part(self, rank: int, placement: Placement) -> Part:
        """Make the stages of one rank."""


@dataclass(frozen=True, kw_only=True)
class ScheduleCase:
    """One schedule, by its name in SCHEDULES, that splits each batch of a work into
    `microbatches`."""

    schedule: str
    microbatches: int
    work: Work

    @property
    def num_ranks(self) -> int:
        return self.work.num_ranks

    @property
    def name(self) -> str:
        return f"{self.schedule} with {self.microbatches} microbatches"

    def time(self, rank: int) -> RankTiming:
        """Run all batches of a case, one directly after the other."""
        schedule = SCHEDULES[self.schedule]
        placement = Placement(
            ranks=schedule.ranks(self.work.num_ranks),
            splits_backward=schedule.splits_backward,
            microbatches=self.microbatches,
        )
        part = self.work.part(rank, placement)
        is_one = len(placement.ranks) == self.work.num_ranks
        run = schedule.make(
            part.stages[0] if is_one else part.stages, self.microbatches, loss_fn=part.loss_of
        )
        ends_s = []
        for batch in range(self.work.steps):
            inputs, target = part.begin(batch)
            run.step(*inputs, target=target)
            part.end()
            ends_s.append(time.perf_counter())
        return RankTiming.of_batches(ends_s, loss=part.loss, slept_s=part.slept_s)


def make_pipeline_stage(
    module: torch.nn.Module, index: int, num_stages: int, *, takes: Tensor, gives: Tensor
) -> PipelineStage:
    """Make a stage of a module that takes and gives tensors like these for a microbatch.

    Both are needed at every stage; else torch 2.13 runs the module to find them out.
    """
    return PipelineStage(
        module,
        index,
        num_stages,
        torch.device("cpu"),
        input_args=(takes.requires_grad_(index > 0),),
        output_args=(gives.requires_grad_(),),
    )
