"""The simulated network under a fault plan: what each fault does to workers and messages there.

Owns deaths and restarts, what outlives them (a keeper's memory, checkpoints), and what of a
message arrives when. The blocks hold one number each (see runtime.testing.hashed_blocks), so that
the end of a run can be compared with a plain loop. Real processes meet faults elsewhere.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from runtime.core.messages import (
    Compute,
    Data,
    Event,
    Message,
    Phase,
    Received,
    Snapshot,
    SnapshotDurable,
    StopWanted,
)
from runtime.core.plan import Side, Stream
from runtime.core.state import COMPUTING, State
from runtime.core.tie_stats import TieStats
from runtime.core.worker import WorkerCore
from runtime.faults.plan import Fault
from runtime.testing.faulty_edges import (
    LATE,
    OVERTAKEN_S,
    FaultyEdges,
    edge_of,
    messages_of_the_dead,
)
from runtime.testing.hashed_blocks import Case, HashedBlock, mix, reference
from runtime.testing.simulated_memory import Memory, Outbox, Part, is_complete, retained_below
from runtime.testing.simulation import OTHER, SimulatedWorker, Simulation

TICK_S = 0.1
LONGEST_STILL_S = 60.0  # without a computation anywhere: a deadlock
MAX_EVENTS = 300_000

DEATHS = {"kill", "segfault", "exit", "oom", "zombie", "kill-restarting"}
FREEZES = {"stop", "gil", "spin"}
BAD_PARTS = {"disk-full", "torn", "flip"}
WAITING = set(State) - set(COMPUTING)


class FaultySimulation(Simulation):
    """Runs a case to its end under a fault plan; each fault fires at most once.

    Timing is drawn from `seed`. `stop_s`: when the user wants the job to stop.
    """

    def __init__(
        self, case: Case, faults: Sequence[Fault], *, seed: int, stop_s: float | None = None
    ) -> None:
        self.case, self.faults = case, tuple(faults)
        self.rng = rng = random.Random(seed)
        paces_s = [rng.uniform(0.001, 0.01) for _ in range(case.num_workers)]
        reach_s = rng.choice([0.001, 0.01, 0.03])
        slow_saving = random.Random(f"saving/{seed}").choice([1, 1, 50])
        super().__init__(
            [case.plan(k) for k in range(case.num_workers)],
            duration_s=lambda k, _, step: paces_s[k] * (0.5 + rng.random()) * self._slow(k, step),
            latency_s=lambda *_: reach_s * (0.1 + rng.random()),
            snapshot_s=lambda k: paces_s[k] * rng.random() * slow_saving,
            blocks=[self._block(k, k) for k in range(case.num_workers)],
            own=lambda payload: payload,
            add=min,
        )
        self.memory = [Memory(saved=(0, k)) for k in range(case.num_workers)]
        self.fired: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self._run = 0  # how often the whole job was started
        self._taken: dict[int, Part] = {}  # the latest snapshots, durable or not
        self._dead: set[int] = set()
        self._frozen: set[int] = set()
        self._slowed: dict[int, tuple[range, float]] = {}
        self._lurking: list[list[tuple[Received, Any]]] = [[] for _ in self.memory]
        self._is_ticking = self._is_over = False
        self._moved_s = 0.0
        self._place(faults)
        if stop_s is not None:
            self.after(stop_s, self._stop)

    def _block(self, k: int, weights: int) -> HashedBlock:
        return HashedBlock(self.case, k, weights)

    def _place(self, faults: Sequence[Fault]) -> None:
        """Find each fault where it waits: at a block's step, snapshot or checkpoint, or on an
        edge."""
        self._at_steps: list[list[Fault]] = [[] for _ in self.workers]
        self._at_snapshots: list[list[Fault]] = [[] for _ in self.workers]
        self._at_parts: list[list[Fault]] = [[] for _ in self.workers]
        for fault in faults:
            if fault.kind in BAD_PARTS:
                self._at_parts[fault.block or 0].append(fault)
            elif fault.kind in ("kill-snapshotting", "kill-checkpointing"):
                self._at_snapshots[fault.block or 0].append(fault)
            elif fault.edge is None:
                k = self.rng.randrange(len(self.workers)) if fault.block is None else fault.block
                self._at_steps[k].append(fault)
        down = range(1, self.case.num_workers)
        silent = set() if self.case.tied else {(k, k - 1) for k in down}
        self._edges = FaultyEdges(faults, self.rng, silent=silent)

    # The run -----------------------------------------------------------------------------------

    def run(self) -> float:
        """Run to the end; raises Stuck, or what a core raised."""
        self._tick_all()
        return super().run()

    def _tick_all(self) -> None:
        """Ticks begin with the first fault: before it they only matter if all stand still.

        Who computes will be waiting soon, or hangs and is replaced.
        """
        if self._is_over:
            return
        if self.now_s - self._moved_s > LONGEST_STILL_S or next(self._order) > MAX_EVENTS:
            raise self._stuck()
        if self._is_ticking or not self._heap:
            for k in range(len(self.workers)):
                if self._hears(k) and self.workers[k].core.state in WAITING:
                    self.tick(k)
        self.after(TICK_S, self._tick_all)

    def _hears(self, k: int) -> bool:
        return k not in self._dead and k not in self._frozen

    def _deliver(self, k: int, event: Event, payload: Any = None) -> None:
        if not self._hears(k):
            return  # what it began last was its end
        super()._deliver(k, event, payload)
        if self._lurking[k]:
            self._let_out(k)
        self._is_over = (
            not self._dead and self.workers[k].core.state is State.DONE and self.are_done
        )

    def _later(self, delay_s: float, happen: Callable[[], None]) -> None:
        """Let something happen, unless the whole job is started anew before."""
        run = self._run
        self.after(delay_s, lambda: happen() if run == self._run and not self._is_over else None)

    def _stop(self) -> None:
        """Tell every worker to stop, and again until the lowest has heard it."""
        self._is_ticking = True
        for k in range(len(self.workers)):
            if self._hears(k):
                self._deliver(k, StopWanted())
        if not self._hears(0):
            self.after(TICK_S, self._stop)

    def _slow(self, k: int, step: int) -> float:
        steps, factor = self._slowed.get(k, (range(0), 1.0))
        return factor if step in steps else 1.0

    # Workers -----------------------------------------------------------------------------------

    def _compute(self, k: int, action: Compute) -> None:
        self._moved_s = self.now_s
        if action.phase is Phase.FORWARD:
            for fault in [f for f in self._at_steps[k] if f.step <= action.step]:
                self._at_steps[k].remove(fault)
                self._fire(fault)
                if not self._begin(k, fault):
                    return
        super()._compute(k, action)

    def _begin(self, k: int, fault: Fault) -> bool:
        """A fault strikes at the begin of block k's step; whether the step still begins."""
        if fault.kind in DEATHS:
            self._kill(k, fault)
        elif fault.kind in FREEZES or fault.kind == "hang":
            if fault.kind in FREEZES:
                self._frozen.add(k)
            self._later(self.rng.uniform(0.2, 1.0), self._reaper(k))
        elif fault.kind in ("keeper-kill", "job-kill"):
            self._kill_job()
        elif fault.kind == "slow":
            steps = range(fault.step, fault.step + int(fault.amount))
            self._slowed[k] = (steps, fault.factor)
            return True
        else:
            return True  # nan is in the case; a coordinator's death touches no worker
        return False

    def _reaper(self, k: int) -> Callable[[], None]:
        """The keeper finds that this generation of worker k hangs."""
        worker = self.workers[k]

        def reap() -> None:
            if self.workers[k] is worker and k not in self._dead:
                self._kill(k)

        return reap

    def _complete(self, worker: SimulatedWorker, k: int, event: Event) -> None:
        if k in self._dead or k in self._frozen:
            return
        if isinstance(event, SnapshotDurable) and self.workers[k] is worker:
            self._note_saved(k, event.step)
        super()._complete(worker, k, event)

    def _snapshot(self, k: int, action: Snapshot) -> None:
        self._moved_s, is_whole = self.now_s, True
        block, tie_stats = self.workers[k].block, action.tie_stats or TieStats()
        assert isinstance(block, HashedBlock)
        self._taken[k] = Part(block.weights, {}, tie_stats=tie_stats)
        if action.checkpoint:
            for fault in [f for f in self._at_parts[k] if f.step <= action.step]:
                self._at_parts[k].remove(fault)
                self._fire(fault)
                is_whole = False
            self._write_part(k, action.step, is_whole, tie_stats)
        if not self._dies_saving(k, action):
            super()._snapshot(k, action)

    def _dies_saving(self, k: int, action: Snapshot) -> bool:
        """Whether a fault strikes while a state is saved. The next generation finds that state
        whole, and makes the part of a checkpoint that it was to be."""
        for fault in self._at_snapshots[k]:
            if fault.step <= action.step and (
                action.checkpoint or fault.kind == "kill-snapshotting"
            ):
                self._at_snapshots[k].remove(fault)
                self._note_saved(k, action.step)
                self._fire(fault)
                self._kill(k, fault)
                return True
        return False

    def _note_saved(self, k: int, step: int) -> None:
        self.memory[k].saved = (step, self._taken[k].weights)
        self.memory[k].tie_stats = self._taken[k].tie_stats

    def _write_part(self, k: int, step: int, is_whole: bool, tie_stats: TieStats) -> None:
        worker, plan = self.workers[k], self.workers[k].core.plan
        assert isinstance(worker.block, HashedBlock)
        ties: Outbox = {}
        if Stream.TIE_DOWN in plan.outgoing:
            late = range(max(0, step - plan.lag), min(step, plan.num_messages(Stream.TIE_DOWN)))
            ties = {(Stream.TIE_DOWN, s): worker.outbox[Stream.TIE_DOWN, s] for s in late}
        self.memory[k].parts[step] = Part(worker.block.weights, ties, is_whole, tie_stats)

    def _trim(self, worker: SimulatedWorker, stream: Stream, step: int) -> None:
        """What lies in a ring is overwritten, not removed; a checkpoint may still want it."""
        if worker.core.plan.outgoing[stream].max_retained is None:
            super()._trim(worker, stream, step - worker.core.plan.lag)

    def _kill(self, k: int, fault: Fault | None = None) -> None:
        """End this generation of worker k; its keeper starts the next from the last snapshot."""
        worker = self.workers[k]
        worker.works.clear()
        self._dead.add(k)
        self._frozen.discard(k)
        self.memory[k].stop_at = worker.core.stop_at
        self._count(worker)
        self._later(self.rng.uniform(0.01, 0.5), lambda: self._restart(k, fault))
        if fault is not None and fault.kind == "zombie":
            for side in worker.core.edges.peers:
                self._haunt_later(k, side, worker)

    def _restart(self, k: int, fault: Fault | None) -> None:
        dead, memory = self.workers[k], self.memory[k]
        step, weights = memory.saved
        self._dead.discard(k)
        self._begin_life(
            k,
            WorkerCore(
                dead.core.plan,
                generation=dead.core.generation + 1,
                start_step=step,
                retained=retained_below(dead.core, dead.outbox, step),
                reached=dead.core.reached,
                stop_at=memory.stop_at,
                tie_stats=memory.tie_stats.copy(),
            ),
            weights,
            dead.outbox,
        )
        if fault is not None and fault.kind == "kill-restarting":
            self._later(self.rng.uniform(0.0, 0.01), self._reaper(k))

    def _begin_life(self, k: int, core: WorkerCore, weights: int, outbox: Outbox) -> None:
        self.workers[k] = self._life(core, self._block(k, weights))
        self.workers[k].outbox = outbox
        self._perform(k, core.start())

    def _kill_job(self) -> None:
        """Every process ends, and the same command begins again from the newest checkpoint."""
        self._run += 1
        for worker in self.workers:
            worker.works.clear()
            self._count(worker)
        self._dead = set(range(len(self.workers)))
        self._frozen.clear()
        self._lurking = [[] for _ in self.memory]
        self._later(self.rng.uniform(0.01, 1.0), self._restart_job)

    def _restart_job(self) -> None:
        self._dead.clear()
        step = max(
            (s for s in self.memory[0].parts if is_complete(s, self.memory)),
            default=0,
        )
        for k, old in enumerate(self.workers):
            part = self.memory[k].parts.get(step, Part(k, {}))
            retained = retained_below(old.core, part.ties, step)
            tie_stats = part.tie_stats.copy()
            core = WorkerCore(
                old.core.plan, start_step=step, retained=retained, tie_stats=tie_stats
            )
            weights = part.weights if step else k
            self.memory[k].saved, self.memory[k].stop_at = (step, weights), None
            self.memory[k].tie_stats = tie_stats.copy()
            self._begin_life(k, core, weights, dict(part.ties))

    # Messages ----------------------------------------------------------------------------------

    def _transmit(self, k: int, side: Side, message: Message, payload: Any = None) -> None:
        to, low = edge_of(k, side)
        if k in self._dead:
            return
        fault = self._edges.strike((k, to), message, step=self.workers[k].core.step)
        if fault is not None:
            self._fire(fault)
        received = Received(side=OTHER[side], message=message)
        left = self._edges.pass_on(fault, low, received, self.now_s)
        if left is None:
            return
        delay_s = self._latency_s(k, to)
        if fault is not None and fault.kind in LATE:
            delay_s += fault.amount or OVERTAKEN_S
        else:
            arrival_s = max(self.now_s + delay_s, self._last_arrival_s.get((k, to), 0.0))
            self._last_arrival_s[k, to] = arrival_s
            delay_s = arrival_s - self.now_s
        self.after(delay_s, self._flight(k, to, left, payload))
        if fault is not None and fault.kind == "duplicate":
            again_s = delay_s + self.rng.choice([0.0, 0.5]) * self.rng.random()
            self.after(again_s, self._flight(k, to, left, payload))

    def _flight(self, k: int, to: int, event: Event, payload: Any) -> Callable[[], None]:
        """A message on its way. If either end dies meanwhile, it may be lost, or be late."""
        run, low, ends = self._run, min(k, to), (self.workers[k], self.workers[to])
        epoch = self._edges.epochs[low]
        is_late = False

        def land() -> None:
            nonlocal is_late
            if (run, epoch) != (self._run, self._edges.epochs[low]):
                return
            if ends != (self.workers[k], self.workers[to]) or not self._hears(to):
                fate = self.rng.choice(["lost", "now", "now" if is_late else "late"])
                received = event if isinstance(event, Received) else None
                if fate == "late" and received and isinstance(received.message, Data):
                    self._lurking[to].append((received, payload))
                elif fate == "late":
                    is_late = True
                    self.after(self.rng.random(), land)
                if fate != "now" or not self._hears(to):
                    return
            self._deliver(to, event, payload)

        return land

    def _let_out(self, k: int) -> None:
        """Deliver what was meant for a dead generation of worker k when it does the most harm."""
        for late in list(self._lurking[k]):
            event, payload = late
            data = event.message
            assert isinstance(data, Data)
            incoming = self.workers[k].core.edges.incoming[data.stream]
            is_full = incoming.expected - incoming.released >= incoming.window.max_messages
            if is_full and data.step == incoming.expected:
                self._lurking[k].remove(late)
                super()._deliver(k, event, payload)

    def _haunt(self, k: int, side: Side, dead: SimulatedWorker) -> None:
        """The dead generation speaks once more, to a neighbour that knows the living one by now."""
        to, _ = edge_of(k, side)
        hearer = self.workers[to].core
        known = hearer.edges.peers[OTHER[side]].generation
        if not self._hears(to) or known is None or known <= dead.core.generation:
            self._later(TICK_S, lambda: self._haunt(k, side, dead))
            return
        for event in messages_of_the_dead(dead.core.generation, hearer, OTHER[side]):
            self._deliver(to, event, mix(-1))

    def _haunt_later(self, k: int, side: Side, dead: SimulatedWorker) -> None:
        self._later(self.rng.random(), lambda: self._haunt(k, side, dead))

    # Figures -----------------------------------------------------------------------------------

    def _fire(self, fault: Fault) -> None:
        self.fired[fault.kind] += 1
        self._is_ticking = True

    def _count(self, worker: SimulatedWorker) -> None:
        core = worker.core
        self.counted["resent"] += core.edges.num_resent
        self.counted["duplicates"] += core.edges.num_duplicates
        self.counted["fenced"] += core.edges.num_fenced

    def judge(self) -> Counter[str]:
        """Compare the end with the plain loop; return what was counted. Raises AssertionError."""
        ends = {worker.core.end for worker in self.workers}
        assert len(ends) == 1, f"the workers end at different steps: {ends}"
        (end,) = ends
        self._judge_weights(end)
        assert all(end in memory.parts for memory in self.memory), "a last part is missing"
        for worker in self.workers:
            self._count(worker)
        return self.counted

    def _judge_weights(self, end: int) -> None:
        found = [worker.block.weights for worker in self.workers]  # type: ignore[union-attr]
        expected = reference(self.case, end)
        wrong = [
            k for k, pair in enumerate(zip(found, expected, strict=True)) if len(set(pair)) > 1
        ]
        assert not wrong, f"workers {wrong} end with other weights than the plain loop"
