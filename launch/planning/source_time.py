"""How long the source of block 0's batches takes on this machine: its images and their views.

Beside it, for a plan, what block 0 learns of them: the source must not be the slower one.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from launch.config import RunConfig
from launch.planning.costs import counted_costs
from launch.planning.partition import Block
from launch.planning.stopwatch import REPEATS, wait_for, with_threads
from launch.planning.unit_times import measured_step
from launch.planning.workload import Workload
from models.block import Source

TIMED_FLOPS = 5e10  # of a step, which a core does in a second or some


def measured_source(source: Source, *, threads: int) -> float:
    """Seconds of a step's batch, with so many threads."""
    with with_threads(threads):
        _, *taken = (_time(source, step) for step in range(1 + REPEATS))
    return statistics.median(taken)


def measured_block_0(
    workload: Workload,
    block: Block,
    make_source: Callable[[RunConfig], Source],
    *,
    device: str,
    threads: int,
) -> tuple[float, float]:
    """Seconds of a step's batch, and of what block 0 learns of it; of a large one, by a smaller
    one that is to it as TIMED_FLOPS are to its FLOPs."""
    config = workload.config
    share = min(1.0, TIMED_FLOPS / max(1.0, counted_costs(workload).of(block).step))
    timed = replace(config, batch_size=max(2, round(share * config.batch_size)))
    scale = config.batch_size / timed.batch_size
    source_s = measured_source(make_source(timed), threads=threads)
    fewer = replace(workload, config=timed)
    return scale * source_s, scale * measured_step(fewer, block, device=device, threads=threads)


def _time(source: Source, step: int) -> float:
    began_s = time.perf_counter()
    views_NCHW, _ = source(step)
    wait_for(views_NCHW)
    return time.perf_counter() - began_s
