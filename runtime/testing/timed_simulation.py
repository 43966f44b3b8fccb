"""The simulation with a machine below it: loops, copies, wires and cores take time.

Owns what each worker's threads are at. The order of things is the driver's: the compute thread
copies what is small, asks the core, and begins the next phase at once; large messages are copied
by a thread of their own, and sent when that is done; the loop takes one message after the other,
each at its cost, and sends. Ticks are not simulated.
"""

from collections import deque
from collections.abc import Callable, Sequence

from runtime.core.messages import (
    Arrived,
    Compute,
    Computed,
    Event,
    Phase,
    Snapshot,
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


class Loop:
    """What waits for one worker's loop; while it is busy, nothing else is taken up."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Event, Payload]] = deque()
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
        self._asks: int | None = None  # the worker whose compute thread is asking its core
        self.most_retained_bytes = [0] * len(plans)
        """For each worker, the most that it kept at once: what its receivers may yet ask for."""
        self.most_in_flight_bytes = [0] * len(plans)
        """For each worker, the most that it had sent and not heard to be released."""

    # A worker's loop ----------------------------------------------------------------------------

    def _reach(self, k: int, event: Event, payload: Payload = None) -> None:
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

    def _cost_s(self, k: int, event: Event) -> float:
        if not isinstance(event, Arrived):
            return self._machine.message_s
        source = k + 1 if event.stream.source is Side.ABOVE else k - 1
        size = 0 if event.absent else self.workers[k].core.plan.incoming[event.stream].message_bytes
        return self._machine.message_s + size / self._network.wire(source, k).receive_bytes_per_s

    # A worker's compute thread ------------------------------------------------------------------

    def _complete(self, worker: SimulatedWorker, k: int, event: Event) -> None:
        """The compute thread is done with something: it keeps what it made, and asks the core."""
        del worker  # nobody dies here
        small_s = self._keep_made(k, event) if isinstance(event, Computed) else 0.0
        ready_s = self._cores[k].end_s(self.now_s, small_s)

        def ask() -> None:
            self._asks = k
            self._deliver(k, event)
            self._asks = None

        self._at(ready_s, ask)

    def _keep_made(self, k: int, event: Computed) -> float:
        """Let large messages be copied; return the seconds that the small ones take here."""
        keeper, small_s = self._keepers[k], 0.0
        for stream in MADE[event.phase]:
            window = self.workers[k].core.plan.outgoing.get(stream)
            took_s = (
                0.0 if window is None else window.message_bytes / self._machine.copy_bytes_per_s
            )
            if window is None or window.message_bytes < LARGE_BYTES:
                small_s += took_s
                continue
            keeper.free_s = self._cores[k].end_s(max(keeper.free_s, self.now_s), took_s)
            keeper.kept_s[stream, event.step] = keeper.free_s
        return small_s

    def _begin_at(self, k: int) -> float:
        """When the compute thread begins what is wanted: at once, or when the loop comes to it."""
        return self.now_s if self._asks == k else self._loops[k].free_s

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

    def _compute(self, k: int, action: Compute) -> None:
        if action.phase is Phase.APPLY:  # all that a step makes is made
            self._note_memory(k)
        begin = super()._compute
        self._at(self._begin_at(k), lambda: begin(k, action))

    def _replay(self, k: int, step: int) -> None:
        begin = super()._replay
        self._at(self._begin_at(k), lambda: begin(k, step))

    def _snapshot(self, k: int, action: Snapshot) -> None:
        """A snapshot waits until all that was made before it is kept."""
        begin = super()._snapshot
        begins_s = max(self._begin_at(k), self._keepers[k].free_s)
        self._at(begins_s, lambda: begin(k, action))

    def _note_memory(self, k: int) -> None:
        retained = in_flight = 0
        for outgoing in self.workers[k].core.edges.outgoing.values():
            size = outgoing.window.message_bytes
            retained += (outgoing.made - outgoing.durable) * size
            in_flight += (outgoing.sent - outgoing.released) * size
        self.most_retained_bytes[k] = max(self.most_retained_bytes[k], retained)
        self.most_in_flight_bytes[k] = max(self.most_in_flight_bytes[k], in_flight)
