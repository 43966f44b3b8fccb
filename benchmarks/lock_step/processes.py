"""Lock-step jobs to compare with: P processes of torch.distributed on gloo.

Owns the processes: each is started here, waited for with a timeout, and gone when this returns.
What a process does is benchmarks.lock_step.rank's.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from benchmarks.lock_step.rank import RankCase, RankTiming, run_rank
from runtime.keeper import fork_server

# What the ranks compute.
PRELOAD = (
    "benchmarks.lock_step.slept_work",
    "benchmarks.lock_step.real_work",
    "benchmarks.lock_step.data_parallel",
)
GLOO_TIMEOUT_S = 60.0
PROCESS_TIMEOUT_S = 1800.0
LEAVE_TIMEOUT_S = 10.0


class LockStepFailed(Exception):
    """A rank failed or did not answer in time; says which, and what it raised."""


@dataclass(frozen=True, kw_only=True)
class LockStepTiming:
    """A case's batches a second, of its slowest rank, and the last one's loss if something is
    learned; of each rank, what it was asked to sleep, and the most resident bytes of its process so
    far."""

    batches_per_s: float
    loss: float | None
    slept_s: tuple[float, ...]
    peak_rss_bytes: tuple[int, ...]


def run_lock_step(cases: Sequence[RankCase], *, wan: str = "") -> list[LockStepTiming]:
    """Run cases of one number of workers in turn, on the same processes.

    `wan` is the control address of a benchmarks.wan.proxy that all connections go through.
    Raises LockStepFailed if a rank fails, and after PROCESS_TIMEOUT_S.
    """
    context = fork_server.make_context(PRELOAD)
    with tempfile.TemporaryDirectory() as directory:
        ranks = _start(context, cases, str(Path(directory, "store")), wan)
        try:
            deadline_s = time.monotonic() + PROCESS_TIMEOUT_S
            timings = [
                _gather([results for _, results in ranks], case, deadline_s) for case in cases
            ]
            for process, _ in ranks:
                process.join(LEAVE_TIMEOUT_S)
            return timings
        finally:
            for process, results in ranks:
                process.kill()
                process.join(LEAVE_TIMEOUT_S)
                results.close()


def _start(
    context: ForkServerContext, cases: Sequence[RankCase], store_path: str, wan: str
) -> list[tuple[ForkServerProcess, Connection]]:
    ranks = []
    for rank in range(cases[0].num_ranks):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=run_rank,
            args=(rank, tuple(cases), store_path, GLOO_TIMEOUT_S, wan, sender),
            daemon=True,
        )
        with fork_server.surroundings():
            process.start()
        sender.close()  # so that the end of the process is the end of what it says
        ranks.append((process, receiver))
    return ranks


def _gather(connections: Sequence[Connection], case: RankCase, deadline_s: float) -> LockStepTiming:
    """One case's timing from every rank; the first rank to fail is the one that is named."""
    timings: dict[Connection, RankTiming] = {}
    where = case.name
    while waiting := [connection for connection in connections if connection not in timings]:
        ready = wait(waiting, max(0.0, deadline_s - time.monotonic()))
        if not ready:
            raise LockStepFailed(f"{where}: no answer in {PROCESS_TIMEOUT_S:.0f} s")
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = connections.index(connection)
            try:
                told = connection.recv()
            except EOFError:
                raise LockStepFailed(f"{where}: the process of rank {rank} died") from None
            if not isinstance(told, RankTiming):
                raise LockStepFailed(f"{where}, rank {rank}:\n{told}")
            timings[connection] = told
    in_order = [timings[connection] for connection in connections]
    return LockStepTiming(
        batches_per_s=min(timing.batches_per_s for timing in in_order),
        loss=next((timing.loss for timing in in_order if timing.loss is not None), None),
        slept_s=tuple(timing.slept_s for timing in in_order),
        peak_rss_bytes=tuple(timing.peak_rss_bytes for timing in in_order),
    )
