"""The simulation with a machine below it: loops, copies, wires and cores take time.

Owns what each worker's threads are at. The order of things is the driver's: the compute thread
begins what is handed out to it at once, and where there is nothing asks the core itself; the loop
takes one thing after the other, what is done or a message, each at its cost, and sends; large
messages are copied by a thread of their own and sent when that is done, and states saved behind
them. Ticks are not simulated.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from runtime.core.messages import (
    Arrived,
    Computed,
    Event,
    Phase,
    Replayed,
    Snapshot,
    SnapshotSafe,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.keeping import LARGE_BYTES
from runtime.testing.network import Cores, Machine, Network
from runtime.testing.simulation import Duration, Payload, SimulatedWorker, Simulation

MADE = {
    Phase.FORWARD: (Stream.ACTIVATION,),
    Phase.UPDATE: (Stream.TIE_UP, Stream.TIE_DOWN),
    Phase.APPLY: (),
}

Ended = Computed | Replayed | Snapshot  # what a compute thread has done; of a snapshot, the copy


class Loop:
    """What waits for one worker's loop; while it is busy, nothing else is taken up. None stands for
    what the compute thread has done."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Event | None, Payload]] = deque()
        self.is_busy = False
        self.free_s = 0.0


class Keeper:
    """The thread that copies one worker's large messages, and when each is kept."""

    def __init__(self) -> None:
        self.free_s = 0.0
        self.kept_s: dict[tuple[Stream, int], float] = {}
        self.sent_s: dict[Stream, float] = {}  # when the latest message of a stream could be sent


class TimedSimulation(Simulation):
    """Runs plans on hosts of `workers_per_host` workers each (None: one host)."""

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        *,
        duration_s: Duration,
        network: Network,
        machine: Machine,
        snapshot_s: Callable[[int], float] = lambda _: 0.0,
        workers_per_host: int | None = None,
    ) -> None:
        super().__init__(
            plans,
            duration_s=lambda k, phase, step: duration_s(k, phase, step) + machine.hand_over_s,
            latency_s=lambda k, to: network.wire(k, to).latency_s,
            snapshot_s=lambda k: snapshot_s(k) + machine.hand_over_s,
        )
        self._network = network
        self._machine = machine
        size = workers_per_host or len(plans)
        hosts = [Cores(machine.cores) for _ in range(-(-len(plans) // size))]
        self._cores = [hosts[k // size] for k in range(len(plans))]
        self._loops = [Loop() for _ in plans]
        self._keepers = [Keeper() for _ in plans]
        self._done: list[deque[Ended]] = [deque() for _ in plans]
        self.most_retained_bytes = [0] * len(plans)
        """For each worker, the most that it kept at once: what its receivers may yet ask for."""
        self.most_in_flight_bytes = [0] * len(plans)
        """For each worker, the most that it had sent and not heard to be released."""

    # A worker's loop ----------------------------------------------------------------------------

    def _reach(self, k: int, event: Event | None, payload: Payload = None) -> None:
        """An event is there for worker k's loop."""
        loop = self._loops[k]
        loop.waiting.append((event, payload))
        if not loop.is_busy:
            self._serve(k, loop)

    def _serve(self, k: int, loop: Loop) -> None:
        """Take up the next event; its own cost comes before the core hears of it."""
        event, payload = loop.waiting.popleft()
        loop.is_busy = True
        self._keep_busy(k, self._cost_s(k, event))

        def serve() -> None:
            if event is None:
                self._settle(k)
            else:
                self._deliver(k, event, payload)
            self._at(loop.free_s, rest)

        def rest() -> None:
            loop.is_busy = False
            if loop.waiting:
                self._serve(k, loop)

        self._at(loop.free_s, serve)

    def _at(self, then_s: float, happen: Callable[[], None]) -> None:
        if then_s <= self.now_s:
            happen()
        else:
            self.after(then_s - self.now_s, happen)

    def _keep_busy(self, k: int, duration_s: float) -> float:
        """Let worker k's loop work for so long, after what it is at; return when it is done."""
        loop = self._loops[k]
        loop.free_s = self._cores[k].end_s(max(loop.free_s, self.now_s), duration_s)
        return loop.free_s

    def _cost_s(self, k: int, event: Event | None) -> float:
        if event is None:
            return self._machine.message_s + self._small_s(k)
        if not isinstance(event, Arrived):
            return self._machine.message_s
        source = k + 1 if event.stream.source is Side.ABOVE else k - 1
        size = 0 if event.absent else self.workers[k].core.plan.incoming[event.stream].message_bytes
        return self._machine.message_s + size / self._network.wire(source, k).receive_bytes_per_s

    # A worker's compute thread ------------------------------------------------------------------

    def _complete(self, worker: SimulatedWorker, k: int, event: Event) -> None:
        """The compute thread is done with something; nobody dies here."""
        assert isinstance(event, Computed | Replayed), event
        self._note_done(worker, k, event)

    def _note_done(self, worker: SimulatedWorker, k: int, done: Ended) -> None:
        """Go on with what is handed out, and let the loop hear; else tell the core."""
        self._done[k].append(done)
        worker.is_busy = False
        if worker.works:
            self._work(k)
            self._reach(k, None)
            return

        def settle() -> None:
            worker.is_busy = False
            self._settle(k)
            self._work(k)

        worker.is_busy = True
        self._at(self._cores[k].end_s(self.now_s, self._small_s(k)), settle)

    def _settle(self, k: int) -> None:
        """Tell the core what was done, and let the large messages of that be copied; a state is
        saved behind them."""
        while self._done[k]:
            event = self._done[k].popleft()
            if isinstance(event, Snapshot):
                self._save(k, event)
                continue
            for stream, took_s in self._copies_s(k, event):
                if took_s is not None:
                    keeper = self._keepers[k]
                    begins_s = max(keeper.free_s, self.now_s)
                    keeper.free_s = self._cores[k].end_s(begins_s, took_s)
                    keeper.kept_s[stream, event.step] = keeper.free_s
            self._deliver(k, event)
            if isinstance(event, Computed) and event.phase is Phase.UPDATE:
                self._note_memory(k)  # all that a step makes is made

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

    def _transmit(self, k: int, side: Side, event: Event, payload: Payload = None) -> None:
        if not isinstance(event, Arrived):
            self._send(k, side, event, payload, size=0)
            return
        keeper, stream = self._keepers[k], event.stream
        size = 0 if event.absent else self.workers[k].core.plan.outgoing[stream].message_bytes
        # A mark is not copied, and yet does not overtake what is.
        kept_s = max(keeper.kept_s.pop((stream, event.step), 0.0), keeper.sent_s.get(stream, 0.0))
        keeper.sent_s[stream] = kept_s
        self._at(kept_s, lambda: self._send(k, side, event, payload, size=size))

    def _send(self, k: int, side: Side, event: Event, payload: Payload, *, size: int) -> None:
        to = k + 1 if side is Side.ABOVE else k - 1
        cost_s = self._machine.message_s + size / self._network.wire(k, to).send_bytes_per_s
        sent_s = self._keep_busy(k, cost_s)
        arrival_s = self._network.arrival_s(sent_s, k, to, size)
        self.after(arrival_s - self.now_s, lambda: self._reach(to, event, payload))

    def _snapshot(self, k: int, action: Snapshot) -> None:
        """The compute thread copies the state."""
        worker = self.workers[k]
        worker.is_busy = True
        self.after(self._snapshot_s(k), lambda: self._note_done(worker, k, action))

    def _save(self, k: int, action: Snapshot) -> None:
        """It is safe when all before it is kept."""
        saved_s = max(0.0, self._keepers[k].free_s - self.now_s)
        self.after(saved_s, lambda: self._reach(k, SnapshotSafe(step=action.step)))

    def _note_memory(self, k: int) -> None:
        retained = in_flight = 0
        for outgoing in self.workers[k].core.edges.outgoing.values():
            size = outgoing.window.message_bytes
            retained += (outgoing.made - outgoing.durable) * size
            in_flight += (outgoing.sent - outgoing.released) * size
        self.most_retained_bytes[k] = max(self.most_retained_bytes[k], retained)
        self.most_in_flight_bytes[k] = max(self.most_in_flight_bytes[k], in_flight)
