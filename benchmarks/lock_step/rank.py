"""One rank of a lock-step pipeline: torch.distributed.pipelining's schedules on some work's stages.

Owns how a schedule is set up and timed in one process. What stages compute is their work's
(benchmarks.lock_step.slept_work, benchmarks.lock_step.real_work); what to run, and the processes,
are benchmarks.lock_step.processes'. Every wait is bounded by gloo's timeout.
"""

import os
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, schedules

from benchmarks.wan.proxied_store import ProxiedStore
from runtime.lifetime import die_with_parent


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
class Layout:
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

    def part(self, rank: int, layout: Layout) -> Part:
        """Make the stages of one rank."""


@dataclass(frozen=True, kw_only=True)
class LockStepCase:
    """One schedule, by its name in SCHEDULES, that splits each batch of a work into
    `microbatches`."""

    schedule: str
    microbatches: int
    work: Work


@dataclass(frozen=True, kw_only=True)
class RankTiming:
    """What a rank measured: batches a second without the first, seconds asked to sleep in all, the
    last batch's loss if it had that, and the most resident bytes of its process so far, whatever
    cases it has run."""

    batches_per_s: float
    slept_s: float
    loss: float | None
    peak_rss_bytes: int


def run_rank(
    rank: int,
    cases: tuple[LockStepCase, ...],
    store_path: str,
    timeout_s: float,
    wan: str,
    results: Connection,
) -> None:
    """Run the cases in turn; send a RankTiming for each, or the traceback that ended it.

    `wan` is the control address of the proxy that all connections go through; "" is none.
    """
    die_with_parent()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    num_ranks = cases[0].work.num_ranks
    try:
        store: dist.Store = dist.FileStore(store_path, num_ranks)
        dist.init_process_group(
            "gloo",
            store=ProxiedStore(store, control=wan) if wan else store,
            rank=rank,
            world_size=num_ranks,
            timeout=timedelta(seconds=timeout_s),
        )
        for case in cases:
            dist.barrier()
            results.send(_time(rank, case))
        dist.barrier()  # nobody leaves while another still needs its connection
        dist.destroy_process_group()
    except Exception:
        results.send(traceback.format_exc())
        raise


def _time(rank: int, case: LockStepCase) -> RankTiming:
    """Run all batches of a case, one directly after the other."""
    schedule = SCHEDULES[case.schedule]
    layout = Layout(
        ranks=schedule.ranks(case.work.num_ranks),
        splits_backward=schedule.splits_backward,
        microbatches=case.microbatches,
    )
    part = case.work.part(rank, layout)
    is_one = len(layout.ranks) == case.work.num_ranks
    run = schedule.make(
        part.stages[0] if is_one else part.stages, case.microbatches, loss_fn=part.loss_of
    )
    ends_s = []
    for batch in range(case.work.steps):
        inputs, target = part.begin(batch)
        run.step(*inputs, target=target)
        part.end()
        ends_s.append(time.perf_counter())
    return RankTiming(
        batches_per_s=(len(ends_s) - 1) / (ends_s[-1] - ends_s[0]),
        slept_s=part.slept_s,
        loss=part.loss,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


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
