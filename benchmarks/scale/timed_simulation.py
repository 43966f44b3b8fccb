"""The simulation with a machine below it: loops, copies, wires and cores take time.

Owns what each worker's threads are at. The order of things is the driver's: the compute thread
notes what it did and begins what is issued to it, and if there is nothing asks the core
itself; the loop takes one thing after the other, what is done or a message, each at its cost, and
sends; large messages are copied by a thread of their own and sent when that is done, and states
saved behind them. Ticks are not simulated.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from benchmarks.scale.host import Happen, Host, Thread
from benchmarks.scale.network import Machine, Network, Wire, make_host
from runtime.core.messages import (
    Computed,
    Data,
    Event,
    Message,
    Phase,
    Received,
    Snapshot,
    SnapshotDurable,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.testing.simulation import (
    OTHER,
    Duration,
    Payload,
    SimulatedWorker,
    Simulation,
    neighbour,
)
from runtime.worker.outbox import LARGE_BYTES

FAR_APART = 37  # steps between two neighbours' overheads
MADE = {
    Phase.FORWARD: (Stream.ACTIVATION,),
    Phase.UPDATE: (Stream.TIE_UP, Stream.TIE_DOWN),
    Phase.APPLY: (),
}

Ended = Computed | Snapshot  # what a compute thread has done; or saved


class Copier(Thread):
    """The thread that copies one worker's large messages, and what is sent behind the copies."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, copies=True)
        self._copying: set[tuple[Stream, int]] = set()
        self._to_send: dict[Stream, deque[tuple[int, Happen]]] = {s: deque() for s in Stream}

    def copy(self, stream: Stream, step: int, took_s: float) -> None:
        """Retain what a block made."""
        self._copying.add((stream, step))

        def copied() -> None:
            self._copying.discard((stream, step))
            self._send_copied(stream)

        self.add(took_s, copied)

    def send(self, stream: Stream, step: int, send: Happen) -> None:
        """Send a message when it is copied; an absent marker is not copied, and yet overtakes
        nothing of its stream."""
        self._to_send[stream].append((step, send))
        self._send_copied(stream)

    def _send_copied(self, stream: Stream) -> None:
        line = self._to_send[stream]
        while line and (stream, line[0][0]) not in self._copying:
            line.popleft()[1]()


class TimedSimulation(Simulation):
    """Runs plans on hosts of `workers_per_host` workers each (None: one host); `between_hosts`
    joins neighbours on two, and `wire` the others."""

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        *,
        duration_s: Duration,
        machine: Machine,
        wire: Wire,
        between_hosts: Wire | None = None,
        workers_per_host: int | None = None,
        snapshot_s: Callable[[int], float] = lambda _: 0.0,
    ) -> None:
        size, far = workers_per_host or len(plans), between_hosts or wire
        super().__init__(
            plans,
            duration_s=lambda k, phase, step: max(
                0.0, duration_s(k, phase, step) + self._overhead_s(k, phase, step)
            ),
            latency_s=lambda k, to: self._network.wire(k, to).latency_s,
            snapshot_s=snapshot_s,
        )
        hosts = [make_host(self, machine) for _ in range(-(-len(plans) // size))]
        self._machine = machine
        self._hosts = [hosts[k // size] for k in range(len(plans))]
        self._network = Network(
            self,
            wire=lambda k, to: wire if k // size == to // size else far,
            host=lambda k: self._hosts[k],
        )
        self._computes = [Thread(host) for host in self._hosts]
        self._loops = [Thread(host) for host in self._hosts]
        self._copiers = [Copier(host) for host in self._hosts]
        self._done: list[deque[Ended]] = [deque() for _ in plans]
        self.most_retained_bytes = [0] * len(plans)
        """For each worker, the most that it retained at once."""
        self.most_in_flight_bytes = [0] * len(plans)
        """For each worker, the most that it had sent and not heard to be released."""

    # A worker's loop ----------------------------------------------------------------------------

    def _reach(self, k: int, event: Event, payload: Payload = None) -> None:
        """An event is there for worker k's loop; its own cost comes before the core hears of it."""
        cost_s = self._machine.message_s
        if isinstance(event, Received) and isinstance(event.message, Data):
            size = self._size(k, event.message)
            cost_s += size / self._network.wire(neighbour(k, event.side), k).receive_bytes_per_s
        self._loops[k].add(cost_s, lambda: self._deliver(k, event, payload))

    def _reach_done(self, k: int) -> None:
        """The compute thread has done something, of which the loop is to tell the core."""
        message_s = self._machine.message_s
        self._loops[k].add(lambda: message_s + self._small_s(k), lambda: self._settle(k))

    # A worker's compute thread ------------------------------------------------------------------

    def _overhead_s(self, k: int, phase: Phase, step: int) -> float:
        """A worker is at another one than its neighbours at the same step. One is measured for the
        whole step, and lies on its longest part. It can be below none, as clocks are read late."""
        overheads_s = self._machine.step_overheads_s
        is_longest = phase is Phase.UPDATE
        return overheads_s[(step + FAR_APART * k) % len(overheads_s)] if is_longest else 0.0

    def _complete(self, worker: SimulatedWorker, k: int, event: Event) -> None:
        """The compute thread is done with something; nobody dies here."""
        assert isinstance(event, Computed), event
        self._end(worker, k, event)

    def _end(self, worker: SimulatedWorker, k: int, done: Ended) -> None:
        """Noting it takes a core for `message_s`."""
        self._computes[k].add(self._machine.message_s, lambda: self._note_done(worker, k, done))

    def _note_done(self, worker: SimulatedWorker, k: int, done: Ended) -> None:
        """Go on with what is issued, and let the loop hear; else tell the core."""
        self._done[k].append(done)
        worker.is_busy = False
        if worker.works:
            self._work(k)
            self._reach_done(k)
            return

        def settle() -> None:
            worker.is_busy = False
            self._settle(k)
            self._work(k)

        worker.is_busy = True
        self._computes[k].add(self._small_s(k), settle)

    def _settle(self, k: int) -> None:
        """Tell the core what was done, and let the large messages of that be copied."""
        while self._done[k]:
            event = self._done[k].popleft()
            if isinstance(event, Snapshot):
                self._deliver(k, SnapshotDurable(step=event.step))
                continue
            for stream, took_s in self._copies_s(k, event):
                if took_s is not None:
                    self._copiers[k].copy(stream, event.step, self._machine.message_s + took_s)
            self._deliver(k, event)
            if isinstance(event, Computed) and event.phase is Phase.UPDATE:
                self._note_memory(k)  # all that a step makes is made

    @property
    def num_works(self) -> int:
        """How many things threads have begun so far; of small messages, almost each is of a
        `message_s`."""
        return sum(host.num_begun for host in set(self._hosts))

    def _small_s(self, k: int) -> float:
        """What the small copies take of all that was done; whoever tells the core makes them."""
        sizes = [
            self.workers[k].core.plan.outgoing[stream].message_bytes
            for event in self._done[k]
            for stream, took_s in self._copies_s(k, event)
            if took_s is None
        ]
        return sum(sizes) / self._machine.copy_bytes_per_s

    def _copies_s(self, k: int, event: Ended) -> Iterator[tuple[Stream, float | None]]:
        """The messages that were made, and how long the copy of each takes; None: it is small."""
        outgoing = self.workers[k].core.plan.outgoing
        for stream in MADE[event.phase] if isinstance(event, Computed) else ():
            if (window := outgoing.get(stream)) is not None:
                is_large = window.message_bytes >= LARGE_BYTES
                took_s = window.message_bytes / self._machine.copy_bytes_per_s
                yield stream, took_s if is_large else None

    # What a core wants --------------------------------------------------------------------------

    def _transmit(self, k: int, side: Side, message: Message, payload: Payload = None) -> None:
        if not isinstance(message, Data):
            self._let_send(k, side, message, payload, size=0)
            return
        size = self._size(k, message)
        self._copiers[k].send(
            message.stream,
            message.step,
            lambda: self._let_send(k, side, message, payload, size=size),
        )

    def _let_send(
        self, k: int, side: Side, message: Message, payload: Payload, *, size: int
    ) -> None:
        """Let the loop send, before it takes up what waits."""
        to, event = neighbour(k, side), Received(side=OTHER[side], message=message)
        cost_s = self._machine.message_s + size / self._network.wire(k, to).send_bytes_per_s

        def carry() -> None:
            self._network.carry(k, to, size, lambda: self._reach(to, event, payload))

        self._loops[k].add(cost_s, carry, first=True)

    def _size(self, k: int, message: Data) -> int:
        """The bytes of tensors of a message that worker k sends or receives."""
        plan = self.workers[k].core.plan
        window = plan.outgoing.get(message.stream) or plan.incoming[message.stream]
        return 0 if message.absent else window.message_bytes

    def _snapshot(self, k: int, action: Snapshot) -> None:
        """The compute thread waits until all before it is copied, and saves the state."""
        worker = self.workers[k]
        worker.is_busy = True

        def save() -> None:
            self.after(self._snapshot_s(k), lambda: self._end(worker, k, action))

        self._settle(k)
        self._copiers[k].add(0.0, save)

    def _note_memory(self, k: int) -> None:
        retained = in_flight = 0
        for outgoing in self.workers[k].core.edges.outgoing.values():
            size = outgoing.window.message_bytes
            retained += (outgoing.made - outgoing.durable) * size
            in_flight += (outgoing.sent - outgoing.released) * size
        self.most_retained_bytes[k] = max(self.most_retained_bytes[k], retained)
        self.most_in_flight_bytes[k] = max(self.most_in_flight_bytes[k], in_flight)
