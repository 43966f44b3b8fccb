"""Drives one worker's core: turns messages into events and actions into work.

Owns the loop, the payloads and the hand-over to the compute thread. What to do next is the
core's; how bytes move is the links'; what is learned is the block's. The loop runs on a thread of
its own, so that messages come and go while the block computes on the main thread.
"""

import logging
import math
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

import zmq

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
    Replayed,
    Send,
    Snapshot,
    SnapshotTaken,
    StopWanted,
    TellStop,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream
from runtime.core.worker import State, WorkerCore
from runtime.faults.injector import Injector
from runtime.free_inbox import FreeInbox
from runtime.links.link import Damaged, Link
from runtime.links.message import DataMessage
from runtime.neighbours import Neighbours
from runtime.state.memory import Page, Word
from runtime.state.retention import Retention
from runtime.state.saving import Saver, with_account
from runtime.step import BlockStep, Payload, TensorSpec
from runtime.telemetry import Telemetry
from runtime.wire import event_of, message_of

log = logging.getLogger(__name__)

TICK_S = 0.1
LOGGED_DAMAGES = 20  # a log is not flooded by a link that does nothing but damage
STATES = tuple(State)
Task = Callable[[], None]
Made = Mapping[Stream, Payload | None]
Done = Computed | Replayed | SnapshotTaken


class Driver:
    """One worker: its core, block and links. `run` and `compute` are called on two threads."""

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
        self.last_inputs: dict[Stream, Payload] = {}
        self.damaged = 0
        self._links = links
        self._neighbours = neighbours
        self._retention = retention
        self._saver = saver
        self._page = page
        self._injector = injector
        self._outgoing_specs = outgoing_specs
        self._inbox: dict[tuple[Stream, int], Payload] = {}
        self._free_inbox = FreeInbox(core.plan)
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._done: deque[tuple[Done, Made]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._failure: BaseException | None = None
        self._poller = zmq.Poller()
        self._poller.register(self._wake, zmq.POLLIN)
        for link in links.values():
            for pollable in link.pollables:
                self._poller.register(pollable, zmq.POLLIN)

    # The compute thread -----------------------------------------------------------------------

    def compute(self) -> None:
        """Run what the loop hands over, until it hands over nothing more."""
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException as error:
                self._failure = error
                raise
            finally:
                os.eventfd_write(self._wake, 1)

    def end_compute(self) -> None:
        """Let `compute` return when what was handed over is done."""
        self._tasks.put(None)

    def submit(self, task: Task) -> None:
        """Hand something over to the compute thread."""
        self._tasks.put(task)

    # The loop ---------------------------------------------------------------------------------

    def run(self, *, until: Callable[[], bool], poll_also: zmq.Socket[bytes] | None = None) -> None:
        """Turn until `until` holds; it is asked once a turn, on this thread.

        A turn never waits longer than a tick. `poll_also` wakes the loop too; whoever gives it
        reads it in `until`. Raises what the block, a link or the core raised.
        """
        if poll_also is not None:
            self._poller.register(poll_also, zmq.POLLIN)
        self._perform(self.core.start())
        next_tick_s = 0.0
        while not until():
            wait_s = max(0.0, next_tick_s - time.monotonic())
            self._poller.poll(math.ceil(wait_s * 1000))
            if self._failure is not None:
                return  # the compute thread raises it
            self._injector.turn()
            self._take_results()
            for side, link in self._links.items():
                self._take_messages(side, link)
            if time.monotonic() >= next_tick_s:
                next_tick_s = time.monotonic() + TICK_S
                self._handle(Tick())
                if self._page[Word.STOP_WANTED] and self.core.stop_at is None:
                    self._handle(StopWanted())
                self._neighbours.check(self.core)
                self._page[Word.SILENT] = self._neighbours.are_silent
            self._tell_keeper()

    def close(self) -> None:
        """Close the links and what this driver opened."""
        for link in self._links.values():
            link.close()
        os.close(self._wake)

    def _tell_keeper(self) -> None:
        """Leave on the page where this worker is, once a turn."""
        core, page = self.core, self._page
        page[Word.TURNS] += 1
        page[Word.STATE] = STATES.index(core.state)
        page[Word.STEP] = core.step
        page[Word.STOP_AT] = 0 if core.stop_at is None else core.stop_at + 1

    @property
    def queue_depth(self) -> int:
        """Activations that are here and not yet used."""
        return sum(1 for stream, _ in self._inbox if stream is Stream.ACTIVATION)

    def _take_results(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while self._done:
            event, made = self._done.popleft()
            self._handle(self._keep_made(made, event))
            if isinstance(event, Computed) and event.phase is Phase.APPLY:
                lost = self.core.account.lost
                self.telemetry.step_done(event.step, block=self.block, num_lost=lost)
                self.telemetry.trace.counters(queue_depth=self.queue_depth)
                if self.core.plan.free is not None:
                    self.telemetry.trace.counters(staleness=self.core.account.latest)

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

    def _handle(self, event: Event, payload: Payload | None = None) -> None:
        actions = self.core.handle(event)
        self.telemetry.stopwatch.enter(self.core.state, self.core.step)
        self._perform(actions, payload)

    def _perform(self, actions: list[Action], arrived: Payload | None = None) -> None:
        for action in actions:
            match action:
                case Compute():
                    self._compute(action)
                case Send():
                    self._send(action)
                case Replay():
                    self._replay(action)
                case Drop(stream=stream, step=step):
                    self._retention.drop(stream, step)
                case Keep(stream=stream, step=step):
                    assert arrived is not None
                    self._inbox[stream, step] = arrived
                    self._free_inbox.arrived(stream, step, arrived)
                case Release(stream=stream, step=step):
                    self._release(stream, step)
                case Trim():
                    pass  # its slots are free to be used again
                case Snapshot():
                    self._save(action)
                case Hello() | Acknowledge() | AskSnapshot() | TellStop():
                    side, message = message_of(action, self.core)
                    self._links[side].send(message)
                case Finish():
                    log.info("done before step %d", self.core.step)

    def _release(self, stream: Stream, step: int) -> None:
        """Give back the message before this one: the last is kept, for timing the block alone."""
        before, payload = self.last_inputs.get(stream), self._inbox.pop((stream, step))
        if stream is Stream.ACTIVATION and not payload:
            return  # a mark only
        if stream is Stream.ACTIVATION:
            self._free_inbox.trained(step, payload, self.core.replays)
        self.last_inputs[stream] = payload
        if before is not None:
            self._links[stream.source].recycle(stream, before)

    def _send(self, action: Send) -> None:
        began_s = time.monotonic()
        payload = () if action.absent else self._retention.get(action.stream, action.step)
        side, message = message_of(action, self.core, payload)
        if not self._links[side].send(message):
            log.warning("%s %d found no peer", action.stream.value, action.step)
        self.telemetry.trace.sent(action.stream, action.step, began_s, time.monotonic())

    def _save(self, action: Snapshot) -> None:
        """Hand a snapshot over to the compute thread."""
        account = self.core.account.copy() if self.core.plan.free is not None else None

        def task() -> None:
            state = self.block.state()
            if account is not None:
                state = with_account(state, account)
            self._saver.save(action.step, state, checkpoint=action.checkpoint)
            self._done.append((SnapshotTaken(step=action.step), {}))

        self.submit(task)

    def _replay(self, action: Replay) -> None:
        """Hand a batch that is kept over to the compute thread; what it makes is for no one."""
        step, block, batch = action.step, self.block, self._free_inbox.batch(action.step)

        def task() -> None:
            began_s = time.perf_counter()
            block.forward(step, batch)
            block.update(step)
            block.apply(step, None, None)
            self.telemetry.stopwatch.computed_s += time.perf_counter() - began_s
            self._done.append((Replayed(step=step), {}))

        self.submit(task)

    def _compute(self, action: Compute) -> None:
        """Hand a phase to the compute thread, with the payloads that it uses."""
        step, block = action.step, self.block
        absent = False

        def forward() -> Made:
            return {Stream.ACTIVATION: block.forward(step, incoming)}

        def update() -> Made:
            nonlocal absent
            ties = block.update(step)
            absent = ties.absent
            return {Stream.TIE_UP: ties.up, Stream.TIE_DOWN: ties.down}

        def apply() -> Made:
            block.apply(step, below, above)
            return {}

        def task() -> None:
            self._injector.begin(action.phase, step)
            began_s = time.perf_counter()
            made = phases[action.phase]()
            self._injector.end(step, time.perf_counter() - began_s)
            self.telemetry.stopwatch.computed_s += time.perf_counter() - began_s
            self._done.append((Computed(phase=action.phase, step=step, absent=absent), made))

        incoming = self._inbox.get((Stream.ACTIVATION, step))
        below = self._tie(Stream.TIE_UP, action.from_below, step)
        above = self._tie(Stream.TIE_DOWN, action.from_above, step)
        phases = {Phase.FORWARD: forward, Phase.UPDATE: update, Phase.APPLY: apply}
        self._page[Word.REACHED] = max(self._page[Word.REACHED], self.core.reached)
        self.submit(task)

    def _tie(self, stream: Stream, message: int | None, step: int) -> Payload | None:
        """What a step uses of a tie, given the newest message that it uses."""
        if message is None:
            return None
        if self.core.plan.is_free(stream):
            payload: Payload = self._free_inbox.take(stream, step)
            return payload
        return self._inbox[stream, message]

    def _keep_made(self, made: Made, event: Done) -> Done:
        """Keep what the block made, until its receiver will never ask for it again.

        What an earlier life has dropped stays dropped: the event that is returned says so.
        """
        if isinstance(event, Computed) and self._was_dropped(event):
            return replace(event, absent=True)
        for stream, payload in made.items():
            specs = self._outgoing_specs.get(stream)
            if specs is None:
                continue
            if isinstance(event, Computed) and event.absent:
                self._retention.put(stream, event.step, None)
                continue
            assert payload is not None, f"no {stream.value} was made at step {event.step}"
            for spec, tensor in zip(specs, payload, strict=True):
                spec.check(tensor)
            self._retention.put(stream, event.step, payload)
        return event

    def _was_dropped(self, event: Computed) -> bool:
        free = self.core.plan.free
        can_be = free is not None and free.drops_oldest and event.phase is Phase.FORWARD
        sends = Stream.ACTIVATION in self._outgoing_specs
        return can_be and sends and self._retention.is_absent(Stream.ACTIVATION, event.step)

    @property
    def is_done(self) -> bool:
        """Whether all steps are done and no neighbour needs this worker."""
        return self.core.state is State.DONE
