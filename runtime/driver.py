"""Drives one worker's core: turns messages into events and actions into work.

Owns the loop, the payloads in memory and the hand-over to the compute thread. What to do next is
the core's; how bytes move is the links'; what is learned is the block's. The loop runs on a
thread of its own, so that messages come and go while the block computes on the main thread.
"""

import logging
import math
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping

import zmq

from runtime.core.messages import (
    Acknowledge,
    Acknowledged,
    Action,
    Arrived,
    Compute,
    Computed,
    Event,
    Finish,
    Hello,
    Keep,
    Linked,
    Phase,
    Rejected,
    Release,
    Send,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream
from runtime.core.worker import State, WorkerCore
from runtime.links.link import Damaged, Link, LinkError
from runtime.links.message import AckMessage, DataMessage, HelloMessage, Message
from runtime.step import BlockStep, Payload, TensorSpec
from runtime.telemetry import Telemetry

log = logging.getLogger(__name__)

TICK_S = 0.1
SILENCE_TIMEOUT_S = 60.0  # a linked neighbour repeats itself every tick, also while it computes
LINK_TIMEOUT_S = 300.0  # neighbours may take their time to build their blocks
Task = Callable[[], None]
Made = Mapping[Stream, Payload | None]


class Driver:
    """One worker: its core, block and links. `run` and `compute` are called on two threads."""

    def __init__(
        self,
        core: WorkerCore,
        block: BlockStep,
        *,
        links: Mapping[Side, Link],
        outgoing_specs: Mapping[Stream, tuple[TensorSpec, ...]],
        telemetry: Telemetry,
    ) -> None:
        self.core = core
        self.block = block
        self.telemetry = telemetry
        self.last_inputs: dict[Stream, Payload] = {}
        self.sent = dict.fromkeys(Stream, 0)
        self.damaged = 0
        self._links = links
        self._outgoing_specs = outgoing_specs
        self._inbox: dict[tuple[Stream, int], Payload] = {}
        self._outbox: dict[tuple[Stream, int], Payload] = {}
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._done: deque[tuple[Computed, Made]] = deque()
        self._heard_s: dict[Side, float] = {}
        self._started_s = math.inf
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._failure: BaseException | None = None
        self._poller = zmq.Poller()
        self._poller.register(self._wake, zmq.POLLIN)
        for link in links.values():
            self._poller.register(link.pollable, zmq.POLLIN)

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
        self._started_s = time.monotonic()
        self._perform(self.core.start())
        next_tick_s = 0.0
        while not until():
            wait_s = max(0.0, next_tick_s - time.monotonic())
            self._poller.poll(math.ceil(wait_s * 1000))
            if self._failure is not None:
                return  # the compute thread raises it
            self._take_results()
            for side, link in self._links.items():
                self._take_messages(side, link)
            if time.monotonic() >= next_tick_s:
                next_tick_s = time.monotonic() + TICK_S
                self._handle(Tick())
                self._check_silence()

    def close(self) -> None:
        """Close the links and what this driver opened."""
        for link in self._links.values():
            link.close()
        os.close(self._wake)

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
            self._keep_made(made, event.step)
            self._handle(event)
            if event.phase is Phase.APPLY:
                self.telemetry.step_done(
                    event.step, loss=self.block.loss, probe_top1=self.block.probe_top1
                )

    def _take_messages(self, side: Side, link: Link) -> None:
        while (message := link.receive()) is not None:
            self._heard_s[side] = time.monotonic()
            event = self._event(side, message)
            payload = message.payload if isinstance(message, DataMessage) else None
            if event is not None:
                self._handle(event, payload)

    def _check_silence(self) -> None:
        """Raise LinkError where a neighbour has been silent for too long, or never came."""
        waited_s = time.monotonic() - self._started_s
        if self.core.state is State.LINKING and waited_s > LINK_TIMEOUT_S:
            missing = [side.value for side, peer in self.core.peers.items() if peer is None]
            raise LinkError(
                f"no word from the worker {' and '.join(missing)} in {LINK_TIMEOUT_S:.0f} s;"
                " can its address be reached from this host (--bind)?"
            )
        for side, heard_s in self._heard_s.items():
            if time.monotonic() - heard_s > SILENCE_TIMEOUT_S:
                raise LinkError(
                    f"the worker {side.value} has been silent for {SILENCE_TIMEOUT_S:.0f} s;"
                    f" this one is at step {self.core.step}, {self.core.state.value}"
                )

    def _event(self, side: Side, message: Message | Damaged) -> Event | None:
        match message:
            case HelloMessage():
                return Linked(side=side, generation=message.generation, wants=message.wants)
            case AckMessage():
                return Acknowledged(
                    stream=message.stream,
                    generation=message.generation,
                    expected=message.expected,
                    released=message.released,
                    durable=message.durable,
                    resend=message.resend,
                )
            case DataMessage():
                return Arrived(
                    stream=message.stream,
                    step=message.step,
                    generation=message.generation,
                    checksum=message.checksum,
                    absent=message.absent,
                )
        self.damaged += 1
        log.warning("a damaged message from the worker %s: %s", side.value, message.reason)
        return None if message.stream is None else Rejected(stream=message.stream)

    def _handle(self, event: Event, payload: Payload | None = None) -> None:
        actions = self.core.handle(event)
        self.telemetry.stopwatch.enter(self.core.state)
        self._perform(actions, payload)

    def _perform(self, actions: list[Action], arrived: Payload | None = None) -> None:
        for action in actions:
            match action:
                case Compute():
                    self._compute(action)
                case Send():
                    self._send(action)
                case Keep(stream=stream, step=step):
                    assert arrived is not None
                    self._inbox[stream, step] = arrived
                case Release(stream=stream, step=step):
                    self.last_inputs[stream] = self._inbox.pop((stream, step))
                case Trim(stream=stream, step=step):
                    self._trim(stream, step)
                case Acknowledge():
                    self._acknowledge(action)
                case Hello(side=side, generation=generation, wants=wants):
                    hello = HelloMessage(generation=generation, wants=dict(wants), fingerprint=0)
                    self._links[side].send(hello)
                case Finish():
                    log.info("all %d steps done", self.core.plan.num_steps)
                case _:
                    raise AssertionError(f"the driver can't do {action}")

    def _send(self, action: Send) -> None:
        payload = () if action.absent else self._outbox[action.stream, action.step]
        message = DataMessage(
            stream=action.stream,
            step=action.step,
            generation=self.core.generation,
            absent=action.absent,
            checksum=0,
            payload=payload,
        )
        if not self._links[action.stream.target].send(message):
            log.warning("%s %d found no peer", action.stream.value, action.step)
            return
        self.sent[action.stream] += 1

    def _acknowledge(self, action: Acknowledge) -> None:
        message = AckMessage(
            stream=action.stream,
            generation=self.core.generation,
            expected=action.expected,
            released=action.released,
            durable=action.durable,
            resend=action.resend,
        )
        self._links[action.stream.source].send(message)

    def _trim(self, stream: Stream, below: int) -> None:
        for key in [key for key in self._outbox if key[0] is stream and key[1] < below]:
            del self._outbox[key]

    def _compute(self, action: Compute) -> None:
        """Hand a phase to the compute thread, with the payloads that it uses."""
        step, block = action.step, self.block

        def forward() -> Made:
            return {Stream.ACTIVATION: block.forward(step, incoming)}

        def update() -> Made:
            ties = block.update(step)
            return {Stream.TIE_UP: ties.up, Stream.TIE_DOWN: ties.down}

        def apply() -> Made:
            block.apply(step, below, above)
            return {}

        def task() -> None:
            began_s = time.perf_counter()
            made = phases[action.phase]()
            self.telemetry.stopwatch.computed_s += time.perf_counter() - began_s
            self._done.append((Computed(phase=action.phase, step=step), made))

        incoming = self._inbox.get((Stream.ACTIVATION, step))
        below = self._inbox_or_none(Stream.TIE_UP, action.from_below)
        above = self._inbox_or_none(Stream.TIE_DOWN, action.from_above)
        phases = {Phase.FORWARD: forward, Phase.UPDATE: update, Phase.APPLY: apply}
        self.submit(task)

    def _inbox_or_none(self, stream: Stream, step: int | None) -> Payload | None:
        return None if step is None else self._inbox[stream, step]

    def _keep_made(self, made: Made, step: int) -> None:
        """Keep what the block made, until its receiver will never ask for it again."""
        for stream, payload in made.items():
            specs = self._outgoing_specs.get(stream)
            if specs is None or step >= self.core.plan.num_messages(stream):
                continue
            assert payload is not None, f"the block made no {stream.value} at step {step}"
            for spec, tensor in zip(specs, payload, strict=True):
                spec.check(tensor)
            self._outbox[stream, step] = payload

    @property
    def is_done(self) -> bool:
        """Whether all steps are done and no neighbour needs this worker."""
        return self.core.state is State.DONE
