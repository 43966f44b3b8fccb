"""What a worker sends its coordinator: reports, and its result when asked for it.

Owns the worker's end of that conversation. Nothing waits for the coordinator but the end: it may
die and come back, so a result is handed over whenever it is asked for, and a worker leaves when
the result is durable.
"""

import time
from collections.abc import Callable
from dataclasses import asdict

import msgpack
import safetensors.torch
import zmq

from runtime import digest
from runtime.block import BlockStep
from runtime.core.state import State
from runtime.core.tie_stats import TieStats
from runtime.links.channel import connect_to
from runtime.records.schema import Counters
from runtime.state.status_page import Field, Page
from runtime.worker.driver import DriverStatus
from runtime.worker.telemetry import Telemetry

ASK_EVERY_S = 0.2
COORDINATOR_PATIENCE_S = 3600.0  # beyond what phases take: others may be slow to finish
STOP_LINGER_S = 0.5


class Reporter:
    """The worker's end. `turn` is called once a turn of the driver's loop, on its thread."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        *,
        block: BlockStep,
        telemetry: Telemetry,
        page: Page,
        block_index: int,
        generation: int,
        patience_s: float,
        is_over: Callable[[], bool],
    ) -> None:
        """`block` is read when all its steps are done; `is_over` says whether the result is
        durable."""
        self._block = block
        self._telemetry = telemetry
        self._page = page
        self._block_index = block_index
        self._patience_s = COORDINATOR_PATIENCE_S + patience_s
        self._is_over = is_over
        self._final: tuple[bytes, bytes] | None = None
        self._done_s = 0.0
        self._asked_s = 0.0
        self._before = {word: page[word] for word in _COUNTED}
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IDENTITY, f"{block_index}/{generation}".encode())
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        connect_to(self._socket, address)

    @property
    def pollable(self) -> zmq.Socket[bytes]:
        """What wakes the loop when the coordinator speaks."""
        return self._socket

    def close(self) -> None:
        self._socket.close()

    def turn(self, status: DriverStatus) -> bool:
        """Report, answer, count; True when this worker may leave."""
        self._count(status)
        is_stopping = status.core.is_stopping  # then there is no result
        if status.is_done and not self._done_s:
            self._telemetry.healed()
            self._done_s = time.monotonic()
            if not is_stopping:
                self._final = self._result(status)
            self._report(status, force=True)
        self._report(status, force=False)
        self._listen()
        if status.is_done and is_stopping:
            # A neighbour may still need to hear what was said last.
            return time.monotonic() - self._done_s > STOP_LINGER_S
        is_linking = status.core.state is State.LINKING  # the others may have left meanwhile
        return (status.is_done or is_linking) and self._may_leave(status.is_done)

    def _may_leave(self, is_done: bool) -> bool:
        now_s = time.monotonic()
        if now_s - self._asked_s < ASK_EVERY_S:
            return False
        self._asked_s = now_s
        if is_done and now_s - self._done_s > self._patience_s:
            raise TimeoutError(f"no result is durable after {self._patience_s:.0f} s")
        return self._is_over()

    def _count(self, status: DriverStatus) -> None:
        """Add what this generation counts to what earlier ones did, on the page that outlives
        them all."""
        counts = {
            Field.RESENT: status.core.num_resent,
            Field.DUPLICATES: status.core.num_duplicates,
            Field.FENCED: status.core.num_fenced,
            Field.DAMAGED: status.num_damaged,
        }
        for word, count in counts.items():
            self._page[word] = self._before[word] + count

    def _listen(self) -> None:
        while self._socket.poll(0):
            order = msgpack.unpackb(self._socket.recv())
            if order["kind"] == "hand-in" and self._final is not None:
                self._tell(*self._final)

    def _report(self, status: DriverStatus, *, force: bool) -> None:
        """Send a report if one is due; one that finds no room is lost, and counted."""
        report = self._telemetry.due_report(
            status.core.state.value,
            status.queue_depth,
            finished=self._final is not None,
            force=force,
        )
        if report is not None:
            self._telemetry.dropped_reports += not self._tell(msgpack.packb(asdict(report)))

    def _tell(self, *frames: bytes) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _result(self, status: DriverStatus) -> tuple[bytes, bytes]:
        """What the coordinator makes the run's result of: figures and digests, and the weights."""
        page, stats = self._page, status.core
        counters = Counters(
            sent=stats.num_activations_sent,
            trained=stats.step,
            stale_ties=stats.tie_stats.stale,
            retrained=page[Field.RETRAINED],
            bad_steps=self._block.num_bad_steps,
            duplicates_dropped=page[Field.DUPLICATES],
            replayed=page[Field.RESENT],
            fenced=page[Field.FENCED],
            damaged=page[Field.DAMAGED],
            dropped_reports=self._telemetry.dropped_reports,
        )
        home = {
            name: tensor.cpu().contiguous().clone()  # tied weights too are tensors of their own
            for name, tensor in self._block.home_state().items()
        }
        result = self._telemetry.result(
            counters,
            staleness=staleness_of(stats.tie_stats),
            digests=digest.block_records(self._block_index, self._block.state()),
        )
        return msgpack.packb(asdict(result)), safetensors.torch.save(home)


def staleness_of(tie_stats: TieStats) -> dict[str, dict[str, int]]:
    """By tie, how many messages were used at each staleness, in steps; texts are keys in JSON."""
    return {
        tie.value: {str(steps): count for steps, count in sorted(counts.items())}
        for tie, counts in tie_stats.staleness.items()
        if counts
    }


_COUNTED = (Field.RESENT, Field.DUPLICATES, Field.FENCED, Field.DAMAGED)
