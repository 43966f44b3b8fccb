"""One rank of a lock-step job: a process of a gloo group, which runs one case after another.

Owns the group and what a rank tells of a case. What a case computes is its own
(benchmarks.lock_step.schedule, benchmarks.lock_step.data_parallel); the processes are
benchmarks.lock_step.processes'. Every wait is bounded by gloo's timeout.
"""

import os
import resource
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Protocol

import torch
import torch.distributed as dist

from benchmarks.wan.proxied_store import ProxiedStore
from runtime.lifetime import die_with_parent


@dataclass(frozen=True, kw_only=True)
class RankTiming:
    """What a rank measured: batches a second without the first, seconds asked to sleep in all, the
    last batch's loss if it had that, and the most resident bytes of its process so far, whatever
    cases it has run."""

    batches_per_s: float
    slept_s: float
    loss: float | None
    peak_rss_bytes: int

    @classmethod
    def of_batches(
        cls, ends_s: Sequence[float], *, loss: float | None, slept_s: float = 0.0
    ) -> "RankTiming":
        """Of batches that ended at these times, when the last one just has."""
        return cls(
            batches_per_s=(len(ends_s) - 1) / (ends_s[-1] - ends_s[0]),
            slept_s=slept_s,
            loss=loss,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )


class RankCase(Protocol):
    """What a group of `num_ranks` runs, in lock-step."""

    @property
    def num_ranks(self) -> int: ...

    @property
    def name(self) -> str:
        """What an error calls it."""

    def time(self, rank: int) -> RankTiming:
        """Run one rank's part of all batches, one directly after the other."""


def run_rank(
    rank: int,
    cases: tuple[RankCase, ...],
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
    num_ranks = cases[0].num_ranks
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
            results.send(case.time(rank))
        dist.barrier()  # nobody leaves while another still needs its connection
        dist.destroy_process_group()
    except Exception:
        results.send(traceback.format_exc())
        raise
