"""How long the source of block 0's batches takes on this machine: its images and their views."""

import statistics
import time

from launch.planning.stopwatch import REPEATS, wait_for, with_threads
from models.block import Source


def measured_source(source: Source, *, threads: int) -> float:
    """Seconds of a step's batch, with so many threads."""
    with with_threads(threads):
        _, *taken = (_time(source, step) for step in range(1 + REPEATS))
    return statistics.median(taken)


def _time(source: Source, step: int) -> float:
    began_s = time.perf_counter()
    views_NCHW, _ = source(step)
    wait_for(views_NCHW)
    return time.perf_counter() - began_s
