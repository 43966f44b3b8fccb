"""A discrete-event simulation of workers: the real core on a simulated network and clock.

Owns simulated time, messages in flight, and what each worker computed when. The blocks may be
real ones, whose steps then take the time that `duration_s` says, or None, when only the timing
matters. One seed gives one history. Nothing goes wrong here (see runtime.testing.simulated_faults).
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from runtime.core.messages import (
    Action,
    Compute,
    Computed,
    Data,
    Event,
    Finish,
    Message,
    Phase,
    Received,
    Release,
    Send,
    Snapshot,
    SnapshotDurable,
    Store,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.state import State
from runtime.core.worker import WorkerCore
from runtime.worker.inbox import FreeTies

Duration = Callable[[int, Phase, int], float]  # (worker, phase, step) -> seconds
Latency = Callable[[int, int], float]  # (from worker, to worker) -> seconds
Payload = Any  # tensors of real blocks, numbers of hashed ones


class SimulatedBlock(Protocol):
    """What of a block the simulation uses; runtime.block.BlockStep offers it."""

    def forward(self, step: int, incoming: Payload) -> Payload: ...
    def update(self, step: int) -> Any: ...
    def apply(self, step: int, from_below: Payload, from_above: Payload) -> None: ...


def _nothing(simulation: "Simulation", worker: int) -> None:
    del simulation, worker


def _copied(payload: Payload) -> Payload:
    """What a real link does: the receiver's tensors are its own."""
    return None if payload is None else tuple(tensor.clone() for tensor in payload)


def _summed(one: Payload, other: Payload) -> Payload:
    return None if one is None else tuple(a + b for a, b in zip(one, other, strict=True))


OTHER = {Side.BELOW: Side.ABOVE, Side.ABOVE: Side.BELOW}


class Stuck(Exception):
    """Nothing is left to happen and a worker has not finished: a deadlock."""


@dataclass(eq=False)
class SimulatedWorker:
    """One generation of a worker: core, block if it has one, and what its driver would store.

    `works` is what its compute thread was handed; the first of it is under way if it is busy.
    """

    core: WorkerCore
    block: SimulatedBlock | None
    works: deque[Compute | Snapshot] = field(default_factory=deque)
    is_busy: bool = False
    inbox: dict[tuple[Stream, int], Payload] = field(default_factory=dict)
    outbox: dict[tuple[Stream, int], Payload] = field(default_factory=dict)
    computed: list[tuple[float, Phase, int]] = field(default_factory=list)
    free_ties: FreeTies = field(init=False)


class Simulation:
    """Runs plans, lowest worker first, to their end; `run` raises Stuck on a deadlock."""

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        *,
        duration_s: Duration,
        latency_s: Latency,
        snapshot_s: Callable[[int], float] = lambda _: 0.0,
        blocks: Sequence[SimulatedBlock] | None = None,
        on_event: Callable[["Simulation", int], None] = _nothing,
        own: Callable[[Payload], Payload] = _copied,
        add: Callable[[Payload, Payload], Payload] = _summed,
    ) -> None:
        """`own` makes a payload the receiver's own; `add` joins those of two gradients."""
        found: Sequence[SimulatedBlock | None] = blocks or [None] * len(plans)
        self._own = own
        self._add = add
        self.workers = [
            self._life(WorkerCore(plan), block) for plan, block in zip(plans, found, strict=True)
        ]
        self.now_s = 0.0
        self._duration_s = duration_s
        self._latency_s = latency_s
        self._snapshot_s = snapshot_s
        self._on_event = on_event
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._last_arrival_s: dict[tuple[int, int], float] = {}

    def _life(self, core: WorkerCore, block: SimulatedBlock | None) -> SimulatedWorker:
        worker = SimulatedWorker(core=core, block=block)
        worker.free_ties = FreeTies(core.plan, copy=self._own, join=self._add)
        return worker

    def run(self) -> float:
        """Run until every worker is done; return the simulated seconds it took."""
        for k, worker in enumerate(self.workers):
            self._perform(k, worker.core.start())
        while self._heap:
            self.now_s, _, happen = heapq.heappop(self._heap)
            happen()
        if not self.are_done:
            raise self._stuck()
        return self.now_s

    @property
    def are_done(self) -> bool:
        return all(worker.core.state is State.DONE for worker in self.workers)

    def tick(self, k: int) -> None:
        """Let worker k's timer run out now."""
        self._deliver(k, Tick())

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        """Let something happen after `delay_s` of simulated time."""
        heapq.heappush(self._heap, (self.now_s + delay_s, next(self._order), happen))

    def _stuck(self) -> Stuck:
        unfinished = {
            k: f"{worker.core.state.value} at {worker.core.step}"
            for k, worker in enumerate(self.workers)
            if worker.core.state is not State.DONE
        }
        details = "\n".join(self.workers[k].core.describe() for k in unfinished)
        return Stuck(f"at {self.now_s:.3f} s {unfinished} wait for ever\n{details}")

    def _deliver(self, k: int, event: Event, payload: Payload = None) -> None:
        actions = self.workers[k].core.handle(event)
        self._perform(k, actions, payload)
        self._on_event(self, k)

    def _perform(self, k: int, actions: list[Action], arrived: Payload = None) -> None:
        worker = self.workers[k]
        for action in actions:
            match action:
                case Send():
                    self._send(k, action)
                case Compute() | Snapshot():
                    worker.works.append(action)
                case Store(stream=stream, step=step):
                    worker.inbox[stream, step] = self._own(arrived)
                    worker.free_ties.arrived(stream, step, arrived)
                case Release(stream=stream, step=step):
                    worker.inbox.pop((stream, step), None)
                case Trim(stream=stream, step=step):
                    self._trim(worker, stream, step)
                case Finish():
                    pass
        self._work(k)

    def _work(self, k: int) -> None:
        """Let a compute thread that is free begin what comes next."""
        worker = self.workers[k]
        while worker.works and not worker.is_busy and self.workers[k] is worker:
            match worker.works.popleft():
                case Snapshot() as action:
                    self._snapshot(k, action)
                case Compute() as action:
                    worker.is_busy = True
                    self._compute(k, action)

    def _send(self, k: int, send: Send) -> None:
        """Put a message on its way: driver and link in one. A step stands for its checksum."""
        message, payload = send.message, None
        if isinstance(message, Data):
            payload = self.workers[k].outbox.get((message.stream, message.step))
            message = replace(message, checksum=message.step)
        self._transmit(k, send.side, message, payload)

    def _transmit(self, k: int, side: Side, message: Message, payload: Payload = None) -> None:
        """Deliver after the latency; what one worker sends to another stays in order."""
        to, event = neighbour(k, side), Received(side=OTHER[side], message=message)
        arrival_s = max(self.now_s + self._latency_s(k, to), self._last_arrival_s.get((k, to), 0.0))
        self._last_arrival_s[k, to] = arrival_s
        self.after(arrival_s - self.now_s, lambda: self._deliver(to, event, payload))

    def _compute(self, k: int, action: Compute) -> None:
        worker = self.workers[k]
        absent = worker.block is not None and _run_phase(worker, worker.block, action)
        worker.computed.append((self.now_s, action.phase, action.step))
        event = Computed(phase=action.phase, step=action.step, absent=absent)
        duration_s = self._duration_s(k, action.phase, action.step)
        self.after(duration_s, lambda: self._complete(worker, k, event))

    def _snapshot(self, k: int, action: Snapshot) -> None:
        worker, event = self.workers[k], SnapshotDurable(step=action.step)
        self.after(self._snapshot_s(k), lambda: self._complete(worker, k, event))

    def _complete(self, worker: SimulatedWorker, k: int, event: Event) -> None:
        """End what a worker was at, if it still lives; it begins what comes next at once."""
        if self.workers[k] is not worker:
            return
        if not isinstance(event, SnapshotDurable):
            worker.is_busy = False
            self._work(k)
        self._deliver(k, event)

    def _trim(self, worker: SimulatedWorker, stream: Stream, step: int) -> None:
        for key in [key for key in worker.outbox if key[0] is stream and key[1] < step]:
            del worker.outbox[key]


def neighbour(k: int, side: Side) -> int:
    """The worker on one side of worker k."""
    return k + 1 if side is Side.ABOVE else k - 1


def _run_phase(worker: SimulatedWorker, block: SimulatedBlock, action: Compute) -> bool:
    """Compute, store what is made, and return whether it is absent."""
    step, plan = action.step, worker.core.plan
    made, absent = {}, False
    if action.phase is Phase.FORWARD:
        made[Stream.ACTIVATION] = block.forward(step, worker.inbox.get((Stream.ACTIVATION, step)))
    elif action.phase is Phase.UPDATE:
        ties = block.update(step)
        made, absent = {Stream.TIE_UP: ties.up, Stream.TIE_DOWN: ties.down}, ties.absent
    else:
        below, above = action.from_below, action.from_above
        block.apply(
            step,
            None if below is None else _tie(worker, Stream.TIE_UP, below, step),
            None if above is None else _tie(worker, Stream.TIE_DOWN, above, step),
        )
    for stream, payload in made.items():
        window = plan.outgoing.get(stream)
        if window is None or step >= plan.num_messages(stream):
            continue
        if plan.free is not None and (stream, step) in worker.outbox:
            continue  # what an earlier generation made stays as it is, for others have seen it
        if plan.is_free(stream) and absent:
            continue
        worker.outbox[stream, step] = payload
        if window.max_retained is not None:
            worker.outbox.pop((stream, step - window.max_retained), None)  # they lie in a ring
    return absent


def _tie(worker: SimulatedWorker, tie: Stream, message: int, step: int) -> Payload:
    """What a step uses of a tie."""
    is_free = worker.core.plan.is_free(tie)
    return worker.free_ties.take(tie, step) if is_free else worker.inbox[tie, message]
