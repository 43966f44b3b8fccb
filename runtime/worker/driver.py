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
    Acknowledge,
    Action,
    AskSnapshot,
    Compute,
    Computed,
    Drop,
    Event,
    Finish,
    Hello,
    Keep,
    Phase,
    Rejected,
    Release,
    Replay,
    Send,
    Snapshot,
    SnapshotSafe,
    StopWanted,
    TellStop,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream
from runtime.core.worker import State, WorkerCore
from runtime.faults.injector import Injector
from runtime.links.link import Damaged, Link, Pollable
from runtime.links.message import DataMessage, Message
from runtime.state.retention import Retention
from runtime.state.saving import Saver
from runtime.state.status_page import Page, Word
from runtime.worker.compute_thread import Computing, Copied, Done
from runtime.worker.inbox import Inbox
from runtime.worker.liveness import Neighbours
from runtime.worker.outbox import Outbox
from runtime.worker.telemetry import Figures, Telemetry
from runtime.worker.wire import event_of, message_of

log = logging.getLogger(__name__)

TICK_S = 0.1
LOGGED_DAMAGES = 20  # a log is not flooded by a link that does nothing but damage
STATES = tuple(State)


class StepDone(NamedTuple):
    """A step is done, and the block's figures were these; `num_lost` before it were passed over,
    and the latest tie that was used was `staleness` steps old."""

    step: int
    figures: Figures
    num_lost: int
    staleness: int


class Driver:
    """One worker: its core, block and links. `run` and `compute` are called on two threads.

    Both tell the core events, under the lock, which also covers what is put into inbox, outbox and
    todo, and what is handed out. The loop alone takes out of todo, sends, and gives back what is
    used up.
    """

    def __init__(
        self,
        core: WorkerCore,
        block: BlockStep,
        *,
        links: Mapping[Side, Link],
        neighbours: Neighbours,
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
        self.damaged = 0
        self._links = links
        self._neighbours = neighbours
        self._page = page
        self._injector = injector
        self._inbox = Inbox(core.plan)
        self._lock = threading.Lock()
        self._has_failed = False  # what was done could not be settled
        self._todo: deque[StepDone | Release | Finish | tuple[Side, Message]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        wake = partial(os.eventfd_write, self._wake, 1)
        self._outbox = Outbox(core.plan, retention, outgoing_specs, wake)
        self._computing = Computing(
            block,
            saver=saver,
            injector=injector,
            stopwatch=telemetry.stopwatch,
            settle=self._settle,
            wake=wake,
        )
        self._poller = zmq.Poller()
        self._poller.register(self._wake, zmq.POLLIN)
        self._sides: dict[Pollable, Side] = {}
        for side, link in links.items():
            for pollable in link.pollables:
                self._poller.register(pollable, zmq.POLLIN)
                self._sides[pollable] = side

    # The compute thread -----------------------------------------------------------------------

    def compute(self) -> None:
        """Run what is handed out until `end_compute`. Raises what the block raised."""
        self._computing.run()

    def end_compute(self) -> None:
        """Let `compute` return when the phase that it is at is done."""
        self._computing.end()

    # Both threads -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Tell the core what the compute thread has done; behind a failure nothing more, for what
        follows would not fit and hide it."""
        with self._lock:
            while not self._has_failed and (done := self._computing.take_done()) is not None:
                self._has_failed = True
                self._settle_one(done)
                self._has_failed = False

    def _settle_one(self, done: Done | Copied) -> None:
        if isinstance(done, Copied):
            self._outbox.save(done.step, done.save)
            self.telemetry.stopwatch.took_snapshot(done.step, done.began_s, done.ended_s)
            return
        event, num_lost = self._outbox.keep(done.event, done.made), self.core.account.lost
        self._tell_core(event, at_s=done.ended_s)
        if isinstance(event, Computed) and event.phase is Phase.APPLY:
            self.telemetry.count_step(event.step)
            staleness = self.core.account.latest
            self._todo.append(StepDone(event.step, done.figures, num_lost, staleness))

    def _tell_core(
        self, event: Event, *, arrived: Payload | None = None, at_s: float | None = None
    ) -> None:
        """Tell the core an event; hand over what is to be computed, and leave the rest for the
        loop in order. Whoever calls holds the lock."""
        actions = self.core.handle(event)
        self._note_reach()
        self.telemetry.stopwatch.enter(self.core.state, self.core.step, at_s)
        self._sort(actions, arrived)

    def _note_reach(self) -> None:
        """Leave on the page what a later life must know, before anyone hears of it."""
        core, page = self.core, self._page
        page[Word.REACHED] = max(page[Word.REACHED], core.reached)
        page[Word.STOP_AT] = 0 if core.stop_at is None else core.stop_at + 1

    def _sort(self, actions: list[Action], arrived: Payload | None = None) -> None:
        for action in actions:
            match action:
                case Compute() | Replay():
                    self._computing.hand_out(self._inbox.find(action))
                case Snapshot():
                    self._computing.hand_out(action)
                case Keep(stream=stream, step=step):
                    assert arrived is not None
                    self._inbox.keep(stream, step, arrived)
                case Drop(stream=stream, step=step):
                    self._outbox.drop(stream, step)
                case Hello() | Send() | Acknowledge() | AskSnapshot() | TellStop():
                    self._todo.append(message_of(action, self.core))  # to the lives of now
                case Release(stream=stream, step=step):
                    self._inbox.used_up(stream, step, self.core.replays)
                    self._todo.append(action)
                case Finish():
                    self._todo.append(action)
                case Trim():
                    pass  # its slots are free to be used again

    # The loop ---------------------------------------------------------------------------------

    def run(self, *, until: Callable[[], bool], poll_also: zmq.Socket[bytes] | None = None) -> None:
        """Turn until `until` holds; it is asked once a turn, on this thread.

        A turn never waits longer than a tick. `poll_also` wakes the loop too; whoever gives it
        reads it in `until`. Raises what the block, a link or the core raised.
        """
        if poll_also is not None:
            self._poller.register(poll_also, zmq.POLLIN)
        self._begin()
        next_tick_s = 0.0
        while not until():
            wait_s = max(0.0, next_tick_s - time.monotonic())
            ready = self._poller.poll(math.ceil(wait_s * 1000))
            if self._computing.failure is not None:
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
                if self._page[Word.STOP_WANTED] and self.core.stop_at is None:
                    self._handle(StopWanted())
                self._neighbours.check(self.core)
                self._page[Word.SILENT] = self._neighbours.are_silent
            self._tell_keeper()

    def close(self) -> None:
        """Close the links and what this driver opened."""
        self._outbox.close()
        for link in self._links.values():
            link.close()
        os.close(self._wake)

    def _tell_keeper(self) -> None:
        """Leave on the page where this worker is, once a turn."""
        core, page = self.core, self._page
        page[Word.TURNS] += 1
        page[Word.STATE] = STATES.index(core.state)
        page[Word.STEP] = core.step
        pending = core.snapshots.pending
        page[Word.SAVING] = 0 if pending is None or pending > core.step else pending + 1

    @property
    def queue_depth(self) -> int:
        """Activations that are here and not yet used."""
        return self._inbox.num_activations

    def _begin(self) -> None:
        with self._lock:
            self._sort(self.core.start())
            self._note_reach()
        self._do_todo()

    def _take_results(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._settle()
        for side, message in self._outbox.take_ready():
            self._send(side, message)
        for step in self._outbox.take_saved():
            self._handle(SnapshotSafe(step=step))
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
                case (side, message):
                    self._send(side, message)

    def _note_step(self, done: StepDone) -> None:
        self.telemetry.step_done(done.step, done.figures, num_lost=done.num_lost)
        self.telemetry.trace.counters(queue_depth=self.queue_depth)
        if self.core.plan.free is not None:
            self.telemetry.trace.counters(staleness=done.staleness)

    def _take_messages(self, side: Side, link: Link) -> None:
        while (message := link.receive()) is not None:
            self._neighbours.heard(side)
            if isinstance(message, Damaged):
                self._note_damage(side, message)
                if message.stream is not None:
                    self._handle(Rejected(stream=message.stream))
                continue
            payload = message.payload if isinstance(message, DataMessage) else None
            self._handle(event_of(side, message), payload)

    def _note_damage(self, side: Side, message: Damaged) -> None:
        self.damaged += 1
        if self.damaged <= LOGGED_DAMAGES:
            log.warning("a damaged message from the worker %s: %s", side.value, message.reason)

    def _release(self, stream: Stream, step: int) -> None:
        """Give a message's tensors back to its link; a mark has none."""
        if payload := self._inbox.release(stream, step):
            self._links[stream.source].recycle(stream, payload)

    def _send(self, side: Side, message: Message) -> None:
        if not isinstance(message, DataMessage):
            self._links[side].send(message)
            return
        began_s = time.monotonic()
        filled = self._outbox.fill(side, message)
        if filled is None:
            return
        stream, step = filled.stream, filled.step
        if not self._links[side].send(filled):
            log.warning("%s %d found no peer", stream.value, step)
        self.telemetry.trace.sent(stream, step, began_s, time.monotonic())

    @property
    def is_done(self) -> bool:
        """Whether all steps are done and no neighbour needs this worker."""
        with self._lock:
            return self.core.state is State.DONE and not self._todo
