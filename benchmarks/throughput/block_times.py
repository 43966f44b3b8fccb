"""How long real blocks take for a step when nothing waits: what a pipeline's ceiling follows from.

Owns the timing. Each block of the main job is timed alone, in a process of its own, while the
other cores time other blocks, so that they are as busy as they are in training.
"""

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from typing import NamedTuple

import torch

from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.resolve import resolve
from models.block import LocalBlock, Payload, Ties
from models.sequential import train

WARM_UP_STEPS = 3
TIMED_S = 6.0


class BlockTime(NamedTuple):
    """Seconds a step by the wall and by its process's cores: the mean, as of a rate, for what
    holds a core up for a while does so in training too."""

    wall_s: float
    cpu_s: float


def ceiling_samples_per_s(flags: Sequence[str]) -> float:
    """The rate of the slowest block of a job with these flags, or that of all cores, if blocks
    share them."""
    job = _job(flags)
    times = block_times(flags)
    shared_s = sum(block.cpu_s for block in times) / job.cores
    return job.batch_size / max(shared_s, *(block.wall_s for block in times))


def block_times(flags: Sequence[str]) -> list[BlockTime]:
    """Time every block of a job with these flags, lowest first."""
    job = _job(flags)
    at_once = max(1, job.cores // job.threads)
    context = multiprocessing.get_context("spawn")
    times: list[BlockTime] = []
    for first in range(0, job.num_workers, at_once):
        own = range(first, min(first + at_once, job.num_workers))
        barrier = context.Barrier(len(own))
        with context.Pool(len(own), initializer=_meet_at, initargs=(barrier,)) as pool:
            times += pool.starmap(_time_at_once, [(flags, k) for k in own], chunksize=1)
    return times


_barriers: list[Barrier] = []  # of this process


def _meet_at(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _time_at_once(flags: Sequence[str], k: int) -> BlockTime:
    job = _job(flags)
    torch.set_num_threads(job.threads)
    block = warm_block(job, k)
    _barriers[0].wait()
    return block.time_step(job.num_steps - 1, at_least_s=TIMED_S)


class NotedBlock:
    """A block that notes its latest inputs, on which it can be timed; its state is spent then."""

    def __init__(self, block: LocalBlock) -> None:
        self._block = block
        self._incoming: Payload | None = None
        self._ties: tuple[Payload | None, Payload | None] = (None, None)

    def forward(self, step: int, incoming: Payload | None) -> Payload | None:
        self._incoming = incoming
        return self._block.forward(step, incoming)

    def update(self, step: int) -> Ties:
        return self._block.update(step)

    def apply(self, step: int, from_below: Payload | None, from_above: Payload | None) -> None:
        self._ties = (from_below, from_above)
        self._block.apply(step, from_below, from_above)

    def time_step(self, step: int, *, at_least_s: float) -> BlockTime:
        """Repeat a step on the latest inputs for so long."""
        began_s, began_cpu_s, repeats = time.perf_counter(), time.process_time(), 0
        while (wall_s := time.perf_counter() - began_s) < at_least_s or not repeats:
            self._block.forward(step, self._incoming)
            self._block.update(step)
            self._block.apply(step, *self._ties)
            repeats += 1
        return BlockTime(wall_s / repeats, (time.process_time() - began_cpu_s) / repeats)


def warm_block(job: LocalLearningJob, k: int) -> NotedBlock:
    """Block k after some steps of the whole job in this process."""
    blocks = [NotedBlock(job.build_block(index)) for index in range(job.num_workers)]
    lag = job.plan(0).lag
    train(blocks, num_steps=lag + WARM_UP_STEPS, lag=lag)
    return blocks[k]


def _job(flags: Sequence[str]) -> LocalLearningJob:
    config = parse(flags, prog="block-times")
    return LocalLearningJob(resolve(config, environment=Environment.from_process()))
