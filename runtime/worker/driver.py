"""Drives one worker's core: turns messages into events and actions into work.

Owns the loop. What to do next is the core's; what has come and what is to go lie in the inbox and
the outbox; how bytes move is the links'; what is learned is the block's, which computes on the main
thread (see compute_thread.py). The loop runs on a thread of its own, so that messages come and go
meanwhile.
"""

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import zmq

from runtime.block import BlockStep, Payload, TensorSpec
from runtime.core.messages import (
    Action,
    Compute,
    Data,
    Event,
    Finish,
    Phase,
    Received,
    Rejected,
    Release,
    Send,
    Snapshot,
    SnapshotDurable,
    StopWanted,
    Store,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream
from runtime.core.state import STATES, State
from runtime.core.stats import CoreStats
from runtime.core.worker import WorkerCore
from runtime.faults.injector import Injector
from runtime.links.link import Damaged, Link, Pollable
from runtime.state.retention import Retention
from runtime.state.saving import Saver
from runtime.state.status_page import Field, Page
from runtime.worker.compute_thread import ComputeThread, Done, Saved
from runtime.worker.inbox import Inbox
from runtime.worker.liveness import Liveness
from runtime.worker.outbox import Outbox
from runtime.worker.telemetry import Figures, Telemetry

log = logging.getLogger(__name__)

TICK_S = 0.1
MOST_RECEIVED = 64  # messages of a side in a turn: the loop has other work
LOGGED_DAMAGES = 20  # a log is not flooded by a link that does nothing but damage


class StepDone(NamedTuple):
    """A step is done, and the block's figures were these; the latest tie that was used was
    `staleness` steps old."""

    step: int
    figures: Figures
    staleness: int


class DriverStatus(NamedTuple):
    """A worker as it is now. `is_done`: all steps are done, and no neighbour needs this worker;
    `queue_depth`: activations that are here and not yet used; `num_damaged`: messages that were
    thrown away in this generation."""

    core: CoreStats
    is_done: bool
    queue_depth: int
    num_damaged: int


class Driver:
    """One worker: its core, block and links. `run` and `compute` are called on two threads.

    Both tell the core events, under the lock, which also covers what is put into inbox, outbox and
    todo, and what is issued. The loop alone takes out of todo, sends, and gives back what is
    used up.
    """

    def __init__(
        self,
        core: WorkerCore,
        block: BlockStep,
        *,
        links: Mapping[Side, Link],
        liveness: Liveness,
        outgoing_specs: Mapping[Stream, tuple[TensorSpec, ...]],
        telemetry: Telemetry,
        retention: Retention,
        saver: Saver,
        page: Page,
        injector: Injector,
    ) -> None:
        self.core = core
        self.block = block
        self.telemetry = telemetry
        self._num_damaged = 0
        self._links = links
        self._liveness = liveness
        self._page = page
        self._injector = injector
        self._inbox = Inbox(core.plan)
        self._lock = threading.Lock()
        self._has_failed = False  # what was done could not be settled
        self._todo: deque[StepDone | Send | Release | Finish] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        wake = partial(os.eventfd_write, self._wake, 1)
        self._outbox = Outbox(retention, outgoing_specs, wake)
        self._compute_thread = ComputeThread(
            block,
            saver=saver,
            injector=injector,
            stopwatch=telemetry.stopwatch,
            settle=self._settle,
            retain_all=self._retain_all,
            wake=wake,
        )
        self._poller = zmq.Poller()
        self._poller.register(self._wake, zmq.POLLIN)
        pairs = ((p, side) for side, link in links.items() for p in link.pollables)
        self._sides: dict[Pollable, Side] = dict(pairs)
        for pollable in self._sides:
            self._poller.register(pollable, zmq.POLLIN)

    # The compute thread -----------------------------------------------------------------------

    def compute(self) -> None:
        """Run what is issued until `end_compute`. Raises what the block raised."""
        self._compute_thread.run()

    def end_compute(self) -> None:
        """Let `compute` return when the phase that it is at is done."""
        self._compute_thread.end()

    # Both threads -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Tell the core what the compute thread has done; behind a failure nothing more, for what
        follows would not fit and hide it."""
        with self._lock:
            while not self._has_failed and (done := self._compute_thread.take_done()) is not None:
                self._has_failed = True
                self._settle_one(done)
                self._has_failed = False

    def _retain_all(self) -> bool:
        """Return when all that the compute thread has made is retained; False if the loop has
        failed to hand it over. Raises what the copying raised."""
        self._settle()
        self._outbox.finish_copies()
        return not self._has_failed

    def _settle_one(self, done: Done | Saved) -> None:
        if isinstance(done, Saved):
            self.telemetry.stopwatch.took_snapshot(done.step, done.began_s, done.ended_s)
            if done.save_part is None:
                self._tell_core(SnapshotDurable(step=done.step), at_s=done.ended_s)
            else:
                self._outbox.save(done.step, done.save_part)
            return
        event = done.event
        self._outbox.retain(event, done.made, done.leaving)
        self._tell_core(event, at_s=done.ended_s)
        if event.phase is Phase.APPLY:
            self.telemetry.count_step(event.step)
            self._todo.append(StepDone(event.step, done.figures, self.core.tie_stats.latest))

    def _tell_core(
        self, event: Event, *, arrived: Payload | None = None, at_s: float | None = None
    ) -> None:
        """Tell the core an event; hand over what is to be computed, and leave the rest for the
        loop in order. The caller must hold the lock."""
        actions = self.core.handle(event)
        self._note_reach()
        self.telemetry.stopwatch.enter(self.core.state, self.core.step, at_s)
        self._sort(actions, arrived)

    def _note_reach(self) -> None:
        """Leave on the page what a later generation must know, before anyone hears of it."""
        core, page = self.core, self._page
        page[Field.REACHED] = max(page[Field.REACHED], core.reached)
        page[Field.STOP_AT] = 0 if core.stop_at is None else core.stop_at + 1

    def _sort(self, actions: list[Action], arrived: Payload | None = None) -> None:
        for action in actions:
            match action:
                case Compute():
                    self._compute_thread.issue(self._inbox.find(action))
                case Snapshot():
                    self._compute_thread.issue(action)
                case Store(stream=stream, step=step):
                    assert arrived is not None
                    self._inbox.store(stream, step, arrived)
                case Send() | Release() | Finish():
                    self._todo.append(action)
                case Trim():
                    pass  # its slots are free to be used again

    # The loop ---------------------------------------------------------------------------------

    def run(
        self, *, until: Callable[[DriverStatus], bool], poll_also: zmq.Socket[bytes] | None = None
    ) -> None:
        """Turn until `until` holds; it is asked once a turn, on this thread.

        A turn never waits longer than a tick. `poll_also` wakes the loop too; whoever gives it
        reads it in `until`. Raises what the block, a link or the core raised.
        """
        if poll_also is not None:
            self._poller.register(poll_also, zmq.POLLIN)
        self._begin()
        next_tick_s = 0.0
        while not until(self.status()):
            wait_s = max(0.0, next_tick_s - time.monotonic())
            ready = self._poller.poll(math.ceil(wait_s * 1000))
            if self._compute_thread.failure is not None:
                return  # the compute thread raises it
            self._injector.turn()
            is_tick = time.monotonic() >= next_tick_s
            self._take_results()
            heard = {self._sides[found] for found, _ in ready if found in self._sides}
            for side in self._links if is_tick else heard:
                self._take_messages(side, self._links[side])
            if is_tick:
                next_tick_s = time.monotonic() + TICK_S
                self._handle(Tick())
                if self._page[Field.STOP_WANTED] and self.core.stop_at is None:
                    self._handle(StopWanted())
                self._liveness.check(self.core.step)
                self._page[Field.SILENT] = self._liveness.are_silent
            self._tell_keeper()

    def close(self) -> None:
        """Close the links and what this driver opened."""
        self._outbox.close()
        for link in self._links.values():
            link.close()
        os.close(self._wake)

    def _tell_keeper(self) -> None:
        """Leave on the page what this worker is at, once a turn."""
        stats, page = self.core.stats(), self._page
        page[Field.TURNS] += 1
        page[Field.STATE] = STATES.index(stats.state)
        page[Field.STEP] = stats.step
        pending = stats.pending_snapshot
        page[Field.SAVING] = 0 if pending is None or pending > stats.step else pending + 1

    def status(self) -> DriverStatus:
        """How this worker is, for those who report it."""
        with self._lock:
            stats = self.core.stats()
            is_done = stats.state is State.DONE and not self._todo
        return DriverStatus(
            core=stats,
            is_done=is_done,
            queue_depth=self._inbox.num_activations,
            num_damaged=self._num_damaged,
        )

    def _begin(self) -> None:
        with self._lock:
            self._sort(self.core.start())
            self._note_reach()
        self._do_todo()

    def _take_results(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._settle()
        for send in self._outbox.take_ready():
            self._send(send)
        for step in self._outbox.take_durable():
            self._handle(SnapshotDurable(step=step))
        self._do_todo()

    def _handle(self, event: Event, arrived: Payload | None = None) -> None:
        with self._lock:
            self._tell_core(event, arrived=arrived)
        self._do_todo()

    def _do_todo(self) -> None:
        """Do what was left for the loop, in the order in which it was decided."""
        while self._todo:
            match self._todo.popleft():
                case StepDone() as done:
                    self._note_step(done)
                case Release(stream=stream, step=step):
                    self._release(stream, step)
                case Finish():
                    log.info("done before step %d", self.core.step)
                case Send() as send:
                    self._send(send)

    def _note_step(self, done: StepDone) -> None:
        self.telemetry.step_done(done.step, done.figures)
        self.telemetry.trace.counters(queue_depth=self._inbox.num_activations)
        if self.core.plan.free is not None:
            self.telemetry.trace.counters(staleness=done.staleness)

    def _take_messages(self, side: Side, link: Link) -> None:
        """Take what is there, and leave what is more for the next turn."""
        for _ in range(MOST_RECEIVED):
            if (found := link.receive()) is None:
                return
            if isinstance(found, Damaged):
                self._note_damage(side, found)
                if found.stream is not None:
                    self._handle(Rejected(stream=found.stream))
            else:
                self._liveness.heard(side, by_data=bool(found.payload))
                self._handle(Received(side=side, message=found.message), found.payload)

    def _note_damage(self, side: Side, damaged: Damaged) -> None:
        self._num_damaged += 1
        if self._num_damaged <= LOGGED_DAMAGES:
            log.warning("a damaged message from the worker %s: %s", side.value, damaged.reason)

    def _release(self, stream: Stream, step: int) -> None:
        """Give a message's tensors back to its link; an absent marker has none."""
        if payload := self._inbox.release(stream, step):
            self._links[stream.source].recycle(stream, payload)

    def _send(self, send: Send) -> None:
        link = self._links[send.side]
        if not isinstance(send.message, Data):
            link.send(send.message)
            return
        began_s = time.monotonic()
        filled = self._outbox.fill(send)
        if filled is None:
            return
        data, payload = filled
        if not link.send(data, payload):
            log.warning("%s %d found no peer", data.stream.value, data.step)
        self.telemetry.trace.sent(data.stream, data.step, began_s, time.monotonic())
