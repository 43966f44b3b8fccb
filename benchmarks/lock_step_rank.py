"""One rank of a lock-step pipeline: torch.distributed.pipelining's schedules on slept stages.

Owns how a schedule is set up and timed in one process. What to run, and the processes, are
benchmarks.lock_step's. Every wait is bounded by gloo's timeout.
"""

import os
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, schedules

from benchmarks.proxied_store import ProxiedStore
from benchmarks.slept_stage import SleptStage
from runtime.lifetime import die_with_parent
from runtime.testing.sleeper import Sleeper
from runtime.testing.slept import SleptConfig

FLOAT_BYTES = 4
SCHEDULES: dict[str, tuple[Any, int]] = {  # name -> (class, stages a rank)
    "GPipe": (schedules.ScheduleGPipe, 1),
    "1F1B": (schedules.Schedule1F1B, 1),
    "interleaved zero-bubble": (schedules.ScheduleInterleavedZeroBubble, 2),
    "ZBV": (schedules.ScheduleZBVZeroBubble, 2),
}


@dataclass(frozen=True, kw_only=True)
class LockStepCase:
    """One schedule, by its name in SCHEDULES, that splits each batch of `config` into
    `microbatches`."""

    schedule: str
    microbatches: int
    config: SleptConfig


@dataclass(frozen=True, kw_only=True)
class RankTiming:
    """What a rank measured: batches a second without the first, seconds asked to sleep in all."""

    batches_per_s: float
    slept_s: float


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
    num_ranks = cases[0].config.workers
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
    config, m = case.config, case.microbatches
    schedule_class, stages_a_rank = SCHEDULES[case.schedule]
    num_stages = stages_a_rank * config.workers
    sleeper = Sleeper()
    indices = [rank + i * config.workers for i in range(stages_a_rank)]
    if schedule_class is schedules.ScheduleZBVZeroBubble:
        indices = [rank, num_stages - 1 - rank]
    modules = [_make_module(index, case, num_stages, sleeper) for index in indices]
    stages = [
        _make_stage(module, index, num_stages)
        for module, index in zip(modules, indices, strict=True)
    ]
    schedule = schedule_class(
        stages[0] if stages_a_rank == 1 else stages,
        m,
        loss_fn=lambda output, _target: output.sum(),
    )
    inputs = [torch.zeros(m, 1)] if stages[0].is_first else []
    target = torch.zeros(m, 1) if any(stage.is_last for stage in stages) else None
    ends_s = []
    for batch in range(config.steps):
        for module in modules:
            module.batch = batch
        schedule.step(*inputs, target=target)
        ends_s.append(time.perf_counter())
    return RankTiming(
        batches_per_s=(len(ends_s) - 1) / (ends_s[-1] - ends_s[0]), slept_s=sleeper.asked_s
    )


def _make_module(index: int, case: LockStepCase, num_stages: int, sleeper: Sleeper) -> SleptStage:
    """Make stage `index`: an equal part of the block that it is cut from, on whichever rank."""
    config, m = case.config, case.microbatches
    parts = num_stages // config.workers
    duration_s = config.make_duration_s()
    edge_numel = config.activation_bytes // FLOAT_BYTES // m
    is_first, is_last = index == 0, index == num_stages - 1
    return SleptStage(
        lambda batch: duration_s(index // parts, batch) / parts / m,
        forward_share=config.forward_share,
        input_numel=1 if is_first else edge_numel,
        output_numel=1 if is_last else edge_numel,
        is_first=is_first,
        sleeper=sleeper,
    )


def _make_stage(module: SleptStage, index: int, num_stages: int) -> PipelineStage:
    # Both are needed at every stage; else torch 2.13 runs the module to find them out.
    input_args = torch.empty_like(module.gradient).requires_grad_(index > 0)
    output_args = torch.empty_like(module.output).requires_grad_()
    return PipelineStage(
        module,
        index,
        num_stages,
        torch.device("cpu"),
        input_args=(input_args,),
        output_args=(output_args,),
    )
