"""What a worker sends its coordinator: reports, and its result when asked for it.

Owns the worker's end of that conversation. Nothing waits for the coordinator but the end: it may
die and come back, so a result is handed over whenever it is asked for, and a worker leaves when
the result is safe.
"""

import time
from collections.abc import Callable
from dataclasses import asdict

import msgpack
import safetensors.torch
import zmq

from runtime import digest
from runtime.core.plan import Stream
from runtime.core.tie_stats import Account
from runtime.core.worker import State
from runtime.links.zeromq import connect_to
from runtime.records.schema import Counters
from runtime.state.status_page import Page, Word
from runtime.worker.driver import Driver

ASK_EVERY_S = 0.2
COORDINATOR_PATIENCE_S = 3600.0  # beyond what phases take: others may be slow to finish
STOP_LINGER_S = 0.5


class Reporter:
    """The worker's end. `turn` is called once a turn of the driver's loop, on its thread."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        driver: Driver,
        *,
        page: Page,
        k: int,
        generation: int,
        num_steps: int,
        patience_s: float,
        is_over: Callable[[], bool],
    ) -> None:
        self._driver = driver
        self._page = page
        self._k = k
        self._num_steps = num_steps
        self._patience_s = COORDINATOR_PATIENCE_S + patience_s
        self._is_over = is_over
        self._final: tuple[bytes, bytes] | None = None
        self._done_s = 0.0
        self._asked_s = 0.0
        self._before = {word: page[word] for word in _COUNTED}
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IDENTITY, f"{k}/{generation}".encode())
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        connect_to(self._socket, address)

    @property
    def pollable(self) -> zmq.Socket[bytes]:
        """What wakes the loop when the coordinator speaks."""
        return self._socket

    def close(self) -> None:
        self._socket.close()

    def turn(self) -> bool:
        """Report, answer, count; True when this worker may leave."""
        driver = self._driver
        self._count()
        done = driver.is_done
        if done and not self._done_s:
            driver.telemetry.healed()
            self._done_s = time.monotonic()
            if not self._is_stopped:
                self._final = self._result()
            self._report(force=True)
        self._report(force=False)
        self._listen()
        if done and self._is_stopped:
            # A neighbour may still need to hear what was said last.
            return time.monotonic() - self._done_s > STOP_LINGER_S
        is_linking = driver.core.state is State.LINKING  # the others may have left meanwhile
        return (done or is_linking) and self._may_leave(done)

    @property
    def _is_stopped(self) -> bool:
        """Whether the job stops before its end, and so has no result."""
        return self._driver.core.end < self._num_steps

    def _may_leave(self, done: bool) -> bool:
        now_s = time.monotonic()
        if now_s - self._asked_s < ASK_EVERY_S:
            return False
        self._asked_s = now_s
        if done and now_s - self._done_s > self._patience_s:
            raise TimeoutError(f"no result is safe after {self._patience_s:.0f} s")
        return self._is_over()

    def _count(self) -> None:
        """Add what this life counts to what earlier ones did, where it outlives them all."""
        core = self._driver.core
        counts = {
            Word.REPLAYED: core.edges.num_replayed,
            Word.REPLAYED_STEPS: core.num_replayed_steps,
            Word.DUPLICATES: core.edges.num_duplicates,
            Word.FENCED: core.edges.num_fenced,
            Word.DAMAGED: self._driver.damaged,
        }
        for word, count in counts.items():
            self._page[word] = self._before[word] + count

    def _listen(self) -> None:
        while self._socket.poll(0):
            order = msgpack.unpackb(self._socket.recv())
            if order["kind"] == "hand-in" and self._final is not None:
                self._tell(*self._final)

    def _report(self, *, force: bool) -> None:
        """Send a report if one is due; one that finds no room is lost, and counted."""
        driver = self._driver
        report = driver.telemetry.due_report(
            driver.core.state.value,
            driver.queue_depth,
            finished=self._final is not None,
            force=force,
        )
        if report is not None:
            driver.telemetry.dropped_reports += not self._tell(msgpack.packb(asdict(report)))

    def _tell(self, *frames: bytes) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _result(self) -> tuple[bytes, bytes]:
        """What the coordinator makes the run's result of: figures and digests, and the weights."""
        driver, page = self._driver, self._page
        activations = driver.core.edges.outgoing.get(Stream.ACTIVATION)
        counters = Counters(
            sent=activations.sent if activations is not None else 0,
            trained=driver.core.step - driver.core.account.lost,
            lost=driver.core.account.lost,
            stale_ties=driver.core.account.stale,
            replayed_steps=page[Word.REPLAYED_STEPS],
            retrained=page[Word.RETRAINED],
            bad_steps=driver.block.num_bad_steps,
            duplicates_dropped=page[Word.DUPLICATES],
            replayed=page[Word.REPLAYED],
            fenced=page[Word.FENCED],
            damaged=page[Word.DAMAGED],
            dropped_reports=driver.telemetry.dropped_reports,
        )
        home = {
            name: tensor.cpu().contiguous().clone()  # tied weights too are tensors of their own
            for name, tensor in driver.block.home_state().items()
        }
        result = driver.telemetry.result(
            counters,
            staleness=staleness_of(driver.core.account),
            digests=digest.block_records(self._k, driver.block.state()),
        )
        return msgpack.packb(asdict(result)), safetensors.torch.save(home)


def staleness_of(account: Account) -> dict[str, dict[str, int]]:
    """By tie, how many messages were used at each staleness, in steps; texts are keys in JSON."""
    return {
        tie.value: {str(steps): count for steps, count in sorted(counts.items())}
        for tie, counts in account.staleness.items()
        if counts
    }


_COUNTED = (Word.REPLAYED, Word.REPLAYED_STEPS, Word.DUPLICATES, Word.FENCED, Word.DAMAGED)
