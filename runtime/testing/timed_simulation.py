"""The simulation with a machine below it: loops, copies, wires and cores take time.

Owns each worker's loop: one event after the other, each at its cost. The order of things is the
driver's: what a block made is copied to where it is kept, then the core hears of it, then what the
core wants is done in turn; a phase begins when the loop comes to it. Ticks are not simulated.
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
    SnapshotTaken,
)
from runtime.core.plan import Side, Stream, WorkerPlan
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
        plan = self.workers[k].core.plan
        if isinstance(event, Computed):
            made = sum(
                plan.outgoing[stream].message_bytes
                for stream in MADE[event.phase]
                if stream in plan.outgoing
            )
            return made / self._machine.copy_bytes_per_s
        if isinstance(event, Arrived):
            source = k + 1 if event.stream.source is Side.ABOVE else k - 1
            size = plan.incoming[event.stream].message_bytes
            return (
                self._machine.message_s + size / self._network.wire(source, k).receive_bytes_per_s
            )
        return 0.0 if isinstance(event, SnapshotTaken) else self._machine.message_s

    # What a core wants --------------------------------------------------------------------------

    def _transmit(self, k: int, side: Side, event: Event, payload: Payload = None) -> None:
        to = k + 1 if side is Side.ABOVE else k - 1
        size = 0
        if isinstance(event, Arrived):
            size = self.workers[k].core.plan.outgoing[event.stream].message_bytes
        cost_s = self._machine.message_s + size / self._network.wire(k, to).send_bytes_per_s
        sent_s = self._keep_busy(k, cost_s)
        arrival_s = self._network.arrival_s(sent_s, k, to, size)
        self.after(arrival_s - self.now_s, lambda: self._reach(to, event, payload))

    def _compute(self, k: int, action: Compute) -> None:
        if action.phase is Phase.APPLY:  # all that a step makes is made
            self._note_memory(k)
        begin = super()._compute
        self._at(self._loops[k].free_s, lambda: begin(k, action))

    def _snapshot(self, k: int, action: Snapshot) -> None:
        begin = super()._snapshot
        self._at(self._loops[k].free_s, lambda: begin(k, action))

    def _complete(self, worker: SimulatedWorker, k: int, event: Event) -> None:
        del worker  # nobody dies here
        self._reach(k, event)

    def _note_memory(self, k: int) -> None:
        retained = in_flight = 0
        for outgoing in self.workers[k].core.edges.outgoing.values():
            size = outgoing.window.message_bytes
            retained += (outgoing.made - outgoing.durable) * size
            in_flight += (outgoing.sent - outgoing.released) * size
        self.most_retained_bytes[k] = max(self.most_retained_bytes[k], retained)
        self.most_in_flight_bytes[k] = max(self.most_in_flight_bytes[k], in_flight)
