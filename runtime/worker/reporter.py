"""What a worker sends its coordinator: reports, and its result when asked for it.

Owns the worker's end of that conversation. Nothing waits for the coordinator but the end: it may
die and come back, so a result is handed over whenever it is asked for, and a worker leaves when
it is told that the result is durable. That wait has no limit of its own, for an evaluation takes
what it takes: the keepers watch the coordinator, and each other, and end their workers.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict

import msgpack
import zmq

from runtime import digest
from runtime.block import BlockStep
from runtime.core.tie_stats import TieStats
from runtime.links.admission import Admission
from runtime.links.channel import Dialling
from runtime.links.tensor_bytes import chunks
from runtime.records.schema import Counters, Report, WorkerResult
from runtime.state.image import Piece
from runtime.state.safetensors_file import file_pieces
from runtime.state.status_page import Field, Page
from runtime.worker.driver import DriverStatus
from runtime.worker.lookup import Lookup
from runtime.worker.reach import Reach
from runtime.worker.telemetry import Telemetry

LOOK_EVERY_S = 5.0  # where the coordinator is, at the end
STOP_LINGER_S = 0.5
GOODBYE_LINGER_MS = 1000
MOST_ORDERS = 16  # in a turn
MOST_ORDER_BYTES = 256


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
        admission: Admission | None,
        coordinator: Lookup,
        tell: Callable[[str], None],
        num_refused: Callable[[], int],
    ) -> None:
        """`block` is read when all its steps are done. `admission` shows the coordinator who this
        is, and `coordinator` says where it listens now, if it has moved; `tell` tells the user if
        it does not answer. `num_refused` counts the strangers at this worker's sockets."""
        self._block = block
        self._telemetry = telemetry
        self._page = page
        self._block_index = block_index
        self._address = address
        self._coordinator = coordinator
        self._looked_s = 0.0
        self._num_refused = num_refused
        self._final: list[Piece] = []
        self._final_sha256 = ""
        self._may_leave = False
        self._done_s = 0.0
        self._before = {word: page[word] for word in _COUNTED}
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IDENTITY, f"{block_index}/{generation}".encode())
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MOST_ORDER_BYTES)
        self._dialling = Dialling(context, self._socket, address, admission)
        self._reach = Reach(f"worker {block_index}", "the coordinator", tell, timeout_s=math.inf)

    @property
    def pollable(self) -> zmq.Socket[bytes]:
        """What wakes the loop when the coordinator speaks."""
        return self._socket

    def close(self) -> None:
        self._dialling.close()
        self._socket.close()

    def turn(self, status: DriverStatus) -> bool:
        """Report, answer, count; True when this worker may leave."""
        self._dialling.mend()
        self._reach.check(self._dialling.unreached, time.monotonic())
        self._count(status)
        is_stopping = status.core.is_stopping  # then there is no result
        if status.is_done and not self._done_s:
            self._telemetry.healed()
            self._done_s = time.monotonic()
            if not is_stopping:
                self._make_result(status)
            self._report(status, force=True)
        self._report(status, force=False)
        self._listen()
        if status.is_done and not is_stopping:
            self._follow()
        if status.is_done and is_stopping:
            # A neighbour may still need to hear what was said last.
            return time.monotonic() - self._done_s > STOP_LINGER_S
        return self._may_leave

    def _follow(self) -> None:
        """Go where the coordinator listens now, if another process has taken its place."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        self._coordinator.ask()
        address = self._coordinator.latest
        if address is not None and address != self._address:
            self._address = address
            self._dialling.dial(address)

    def _count(self, status: DriverStatus) -> None:
        """Add what this generation counts to what earlier ones did, on the page that outlives
        them all."""
        counts = {
            Field.RESENT: status.core.num_resent,
            Field.DUPLICATES: status.core.num_duplicates,
            Field.FENCED: status.core.num_fenced,
            Field.DAMAGED: status.num_damaged,
            Field.REFUSED: self._num_refused(),
        }
        for word, count in counts.items():
            self._page[word] = self._before[word] + count

    def _listen(self) -> None:
        """Do what the coordinator says; it alone can reach this socket. It asks for the result at
        each report until it has it: what was asked together is answered once."""
        is_wanted = False
        for _ in range(MOST_ORDERS):
            if not self._socket.poll(0):
                break
            match self._socket.recv_multipart():
                case [b"hand-in"]:
                    is_wanted = True
                case [b"leave"]:
                    self._may_leave = True
                    self._socket.setsockopt(zmq.LINGER, GOODBYE_LINGER_MS)
                    self._tell(b"left")
        if is_wanted and self._final and not self._may_leave:
            self._tell(*self._final)

    def _report(self, status: DriverStatus, *, force: bool) -> None:
        """Send a report if one is due; one that finds no room is lost, and counted."""
        report = self._telemetry.due_report(
            status.core.state.value,
            status.queue_depth,
            result_sha256=self._final_sha256,
            refused=self._page[Field.REFUSED],
            force=force,
        )
        if report is not None:
            self._telemetry.dropped_reports += not self._tell(*_message(b"report", report))

    def _tell(self, *frames: Piece) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _make_result(self, status: DriverStatus) -> None:
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
            refused=page[Field.REFUSED],
            dropped_reports=self._telemetry.dropped_reports,
        )
        result = self._telemetry.result(
            counters,
            staleness=staleness_of(stats.tie_stats),
            digests=digest.block_records(self._block_index, self._block.state()),
        )
        weights = file_pieces(self._block.home_state())
        sha256 = hashlib.sha256()
        for piece in weights:
            sha256.update(piece)
        self._final_sha256 = sha256.hexdigest()
        frames = [chunk for piece in weights for chunk in chunks(memoryview(piece))]
        self._final = [*_message(b"result", result), *frames]


def _message(kind: bytes, record: Report | WorkerResult) -> list[bytes]:
    """Its kind, how many frames its fields take, and these."""
    fields = list(chunks(msgpack.packb(asdict(record))))
    return [kind, str(len(fields)).encode(), *fields]


def staleness_of(tie_stats: TieStats) -> dict[str, dict[str, int]]:
    """By tie, how many messages were used at each staleness, in steps; texts are keys in JSON."""
    return {
        tie.value: {str(steps): count for steps, count in sorted(counts.items())}
        for tie, counts in tie_stats.staleness.items()
        if counts
    }


_COUNTED = (Field.RESENT, Field.DUPLICATES, Field.FENCED, Field.DAMAGED, Field.REFUSED)
