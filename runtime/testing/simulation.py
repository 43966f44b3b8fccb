"""A discrete-event simulation of workers: the real core on a simulated network and clock.

Owns simulated time, messages in flight, and what each worker computed when. The blocks may be
real ones, whose steps then take the time that `duration_s` says, or None, when only the timing
matters. One seed gives one history.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    Release,
    Send,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.worker import State, WorkerCore
from runtime.step import BlockStep, Payload

Duration = Callable[[int, Phase, int], float]  # (worker, phase, step) -> seconds
Latency = Callable[[int, int], float]  # (from worker, to worker) -> seconds


def _nothing(simulation: "Simulation", worker: int) -> None:
    del simulation, worker


class Stuck(Exception):
    """Nothing is left to happen and a worker has not finished: a deadlock."""


@dataclass
class SimulatedWorker:
    """One core, its block if it has one, and the payloads its driver would keep."""

    core: WorkerCore
    block: BlockStep | None
    inbox: dict[tuple[Stream, int], Payload] = field(default_factory=dict)
    outbox: dict[tuple[Stream, int], Payload] = field(default_factory=dict)
    computed: list[tuple[float, Phase, int]] = field(default_factory=list)


class Simulation:
    """Runs plans, lowest worker first, to their end; `run` raises Stuck on a deadlock."""

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        *,
        duration_s: Duration,
        latency_s: Latency,
        blocks: Sequence[BlockStep] | None = None,
        on_event: Callable[["Simulation", int], None] = _nothing,
    ) -> None:
        found: Sequence[BlockStep | None] = blocks or [None] * len(plans)
        self.workers = [
            SimulatedWorker(core=WorkerCore(plan), block=block)
            for plan, block in zip(plans, found, strict=True)
        ]
        self.now_s = 0.0
        self._duration_s = duration_s
        self._latency_s = latency_s
        self._on_event = on_event
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._last_arrival_s: dict[tuple[int, int], float] = {}

    def run(self) -> float:
        """Run until every worker is done; return the simulated seconds it took."""
        for k, worker in enumerate(self.workers):
            self._perform(k, worker.core.start())
        while self._heap:
            self.now_s, _, happen = heapq.heappop(self._heap)
            happen()
        unfinished = {
            k: worker.core.state.value
            for k, worker in enumerate(self.workers)
            if worker.core.state is not State.DONE
        }
        if unfinished:
            details = "\n".join(self.workers[k].core.describe() for k in unfinished)
            raise Stuck(f"at {self.now_s:.3f} s {unfinished} wait for ever\n{details}")
        return self.now_s

    def tick(self, k: int) -> None:
        """Let worker k's timer run out now."""
        self._deliver(k, Tick())

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        """Let something happen after `delay_s` of simulated time."""
        heapq.heappush(self._heap, (self.now_s + delay_s, next(self._order), happen))

    def _deliver(self, k: int, event: Event, payload: Payload | None = None) -> None:
        actions = self.workers[k].core.handle(event)
        self._perform(k, actions, payload)
        self._on_event(self, k)

    def _perform(self, k: int, actions: list[Action], arrived: Payload | None = None) -> None:
        worker = self.workers[k]
        for action in actions:
            match action:
                case Compute():
                    self._compute(k, action)
                case Send(stream=stream, step=step, absent=absent):
                    event = Arrived(
                        stream=stream,
                        step=step,
                        generation=worker.core.generation,
                        checksum=step,
                        absent=absent,
                    )
                    self._transmit(k, stream.target, event, worker.outbox.get((stream, step)))
                case Keep(stream=stream, step=step):
                    if arrived is not None:
                        # What a real link does: the receiver's tensors are its own.
                        worker.inbox[stream, step] = tuple(tensor.clone() for tensor in arrived)
                case Release(stream=stream, step=step):
                    worker.inbox.pop((stream, step), None)
                case Trim(stream=stream, step=step):
                    for key in [key for key in worker.outbox if key[0] is stream and key[1] < step]:
                        del worker.outbox[key]
                case Acknowledge():
                    self._transmit(k, action.stream.source, _acknowledged(action, worker.core))
                case Hello(side=side, generation=generation, wants=wants):
                    back = Side.BELOW if side is Side.ABOVE else Side.ABOVE
                    self._transmit(k, side, Linked(side=back, generation=generation, wants=wants))
                case Finish():
                    pass
                case _:
                    raise AssertionError(f"this simulation has no place for {action}")

    def _transmit(self, k: int, side: Side, event: Event, payload: Payload | None = None) -> None:
        """Deliver after the latency; what one worker sends to another stays in order."""
        to = k + 1 if side is Side.ABOVE else k - 1
        arrival_s = max(self.now_s + self._latency_s(k, to), self._last_arrival_s.get((k, to), 0.0))
        self._last_arrival_s[k, to] = arrival_s
        self.after(arrival_s - self.now_s, lambda: self._deliver(to, event, payload))

    def _compute(self, k: int, action: Compute) -> None:
        worker = self.workers[k]
        if worker.block is not None:
            _run_phase(worker, worker.block, action)
        worker.computed.append((self.now_s, action.phase, action.step))
        event = Computed(phase=action.phase, step=action.step)
        duration_s = self._duration_s(k, action.phase, action.step)
        self.after(duration_s, lambda: self._deliver(k, event))


def _acknowledged(action: Acknowledge, core: WorkerCore) -> Acknowledged:
    return Acknowledged(
        stream=action.stream,
        generation=core.generation,
        expected=action.expected,
        released=action.released,
        durable=action.durable,
        resend=action.resend,
    )


def _run_phase(worker: SimulatedWorker, block: BlockStep, action: Compute) -> None:
    step = action.step
    if action.phase is Phase.FORWARD:
        made = {Stream.ACTIVATION: block.forward(step, worker.inbox.get((Stream.ACTIVATION, step)))}
    elif action.phase is Phase.UPDATE:
        ties = block.update(step)
        made = {Stream.TIE_UP: ties.up, Stream.TIE_DOWN: ties.down}
    else:
        made = {}
        below, above = action.from_below, action.from_above
        block.apply(
            step,
            None if below is None else worker.inbox[Stream.TIE_UP, below],
            None if above is None else worker.inbox[Stream.TIE_DOWN, above],
        )
    plan = worker.core.plan
    for stream, payload in made.items():
        is_sent = stream in plan.outgoing and step < plan.num_messages(stream)
        if payload is not None and is_sent:
            worker.outbox[stream, step] = payload
