"""How fast the pipeline runs on a simulated clock, and that a broken core does not get by.

This is also the test of runtime/testing/simulation.py.
"""

import random
from dataclasses import replace

import pytest

from runtime.core import worker
from runtime.core.edges import Edges
from runtime.core.messages import Computed, Phase, Tick
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.core.state import State
from runtime.core.streams import Outgoing, ProtocolError
from runtime.core.worker import WorkerCore
from runtime.testing.simulation import Simulation, Stuck

ACTIVATION, TIE_UP, TIE_DOWN = Stream


def plans(num_workers: int, *, num_steps: int, lag: int, size: int, tied: bool = True):
    streams = list(Stream) if tied else [ACTIVATION]
    sizes = {ACTIVATION: size, TIE_UP: size, TIE_DOWN: max(2, lag + 1)}
    windows = {
        s: Window(max_messages=sizes[s], max_bytes=8 * sizes[s], message_bytes=8) for s in streams
    }
    result = []
    for k in range(num_workers):
        has = {Side.BELOW: k > 0, Side.ABOVE: k + 1 < num_workers}
        result.append(
            WorkerPlan(
                num_steps=num_steps,
                lag=lag,
                incoming={s: windows[s] for s in streams if has[s.source]},
                outgoing={s: windows[s] for s in streams if has[s.target]},
            )
        )
    return result


def phases(forward_s: list[float], block_s: list[float]):
    """A block's step takes `block_s`, of which its home's forward takes `forward_s`."""

    def duration_s(k: int, phase: Phase, step: int) -> float:
        rest_s = block_s[k] - forward_s[k]
        return {Phase.FORWARD: forward_s[k], Phase.UPDATE: rest_s, Phase.APPLY: 0.0}[phase]

    return duration_s


def rate(simulation: Simulation) -> float:
    """Run; return the steps a second of the top worker over the second half of the run."""
    simulation.run()
    starts = [t for t, phase, _ in simulation.workers[-1].computed if phase is Phase.FORWARD]
    half = len(starts) // 2
    return (len(starts) - 1 - half) / (starts[-1] - starts[half])


def equal_blocks(num_workers: int, *, lag: int, latency_s: float, size: int = 2, num_steps=100):
    """Blocks of 60 ms, of which 20 ms are the home's forward."""
    return Simulation(
        plans(num_workers, num_steps=num_steps, lag=lag, size=size),
        duration_s=phases([0.02] * num_workers, [0.06] * num_workers),
        latency_s=lambda a, b: latency_s,
    )


@pytest.mark.parametrize("num_workers", [1, 2, 4, 16])
@pytest.mark.parametrize("latency_s", [0.0, 0.02])
def test_lag_1_and_window_2_bear_a_latency_of_a_third(num_workers, latency_s):
    """Up to a third of a step they reach the full rate."""
    assert 0.06 * rate(equal_blocks(num_workers, lag=1, latency_s=latency_s)) >= 0.98


@pytest.mark.parametrize("num_workers", [2, 4, 16])
def test_lag_0_locks_neighbours_to_three_quarters_of_the_rate(num_workers):
    assert 0.06 * rate(equal_blocks(num_workers, lag=0, latency_s=0.0)) == pytest.approx(
        0.75, abs=0.01
    )


def test_ties_are_what_locks():
    simulation = Simulation(
        plans(4, num_steps=200, lag=0, size=2, tied=False),
        duration_s=phases([0.02] * 4, [0.06] * 4),
        latency_s=lambda a, b: 0.02,
    )
    assert 0.06 * rate(simulation) >= 0.98


@pytest.mark.parametrize(("lag", "size", "expected"), [(1, 2, 0.6), (3, 2, 2 / 3), (3, 4, 1.0)])
def test_latency_of_one_step_asks_for_more_lag_and_more_window(lag, size, expected):
    """f + 2L + C = 200 ms against (lag + 1) 60 ms; C + 2L = 180 ms against W 60 ms."""
    simulation = equal_blocks(4, lag=lag, latency_s=0.06, size=size, num_steps=400)
    assert 0.06 * rate(simulation) == pytest.approx(expected, abs=0.02)


def unequal(seed: int):
    """Draw a pipeline: (forward_s, block_s, latency of each direction of each edge)."""
    rng = random.Random(seed)
    num_workers = rng.choice([2, 3, 5, 8, 16])
    block_s = [rng.uniform(0.3, 1.0) for _ in range(num_workers)]
    forward_s = [c * rng.uniform(0.1, 0.6) for c in block_s]
    longest_s = rng.choice([0.05, 0.5, 1.5])
    latency_s = {
        (k, j): rng.uniform(0, longest_s)
        for k in range(num_workers)
        for j in (k - 1, k + 1)
        if 0 <= j < num_workers
    }
    return forward_s, block_s, latency_s


def margins(forward_s, block_s, latency_s, *, lag: int, size: int) -> tuple[float, float]:
    """By how much each of the two inequalities holds on its worst edge, in steps."""
    slowest_s = max(block_s)
    tie, credit = [], []
    for k in range(len(block_s) - 1):
        round_trip_s = block_s[k + 1] + latency_s[k, k + 1] + latency_s[k + 1, k]
        tie.append((lag + 1) - (forward_s[k] + round_trip_s) / slowest_s)
        credit.append(size - round_trip_s / slowest_s)
    return min(tie), min(credit)


@pytest.mark.parametrize("seed", range(40))
def test_full_rate_needs_both_inequalities_and_no_more(seed):
    """f + L_up + C + L_down <= (lag + 1) T, and C + L_up + L_credit <= W T, on every edge."""
    forward_s, block_s, latency_s = unequal(seed)
    lag, size = seed % 4, 2 + seed % 3
    tie, credit = margins(forward_s, block_s, latency_s, lag=lag, size=size)
    num_workers = len(block_s)
    simulation = Simulation(
        plans(num_workers, num_steps=100, lag=lag, size=size),
        duration_s=phases(forward_s, block_s),
        latency_s=lambda a, b: latency_s[a, b],
    )
    reached = max(block_s) * rate(simulation)
    if tie >= 0 and credit >= 0:
        assert reached >= 0.97
    if tie < 0:
        # That cycle alone allows (lag + 1) steps in the time its one round takes.
        assert reached <= (lag + 1) / (lag + 1 - tie) + 0.01
    if credit < 0:
        assert reached <= size / (size - credit) + 0.01
    assert reached <= 1.01


def test_drawn_pipelines_cover_every_case():
    kinds = set()
    for seed in range(40):
        tie, credit = margins(*unequal(seed), lag=seed % 4, size=2 + seed % 3)
        kinds.add((tie >= 0, credit >= 0))
    assert len(kinds) == 4


def test_one_seed_gives_one_history():
    def history() -> list:
        rng = random.Random(3)
        simulation = Simulation(
            plans(4, num_steps=30, lag=1, size=2),
            duration_s=lambda k, phase, step: rng.expovariate(20),
            latency_s=lambda a, b: rng.expovariate(20),
        )
        simulation.run()
        return [one.computed for one in simulation.workers]

    assert history() == history()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("lag", [0, 1, 3])
def test_jitter_never_breaks_order_or_window(seed, lag):
    run_checked(jittery(5, seed=seed, lag=lag))


# Broken cores ----------------------------------------------------------------------------------


def jittery(num_workers: int, *, seed: int, lag: int, tied: bool = True):
    """Blocks of random durations; if nothing ties them, the higher ones are the slower."""
    rng = random.Random(seed)
    return Simulation(
        plans(num_workers, num_steps=40, lag=lag, size=2, tied=tied),
        duration_s=lambda k, phase, step: rng.expovariate(20 if tied else 20 / (k + 1)),
        latency_s=lambda a, b: rng.expovariate(10),
        on_event=check,
    )


def check(simulation: Simulation, k: int) -> None:
    """What holds at all times, seen from outside."""
    core = simulation.workers[k].core
    for stream, outgoing in core.edges.outgoing.items():
        assert min(outgoing.made, core.plan.num_messages(stream)) - outgoing.sent <= 1
        neighbour = simulation.workers[k + 1 if stream.target is Side.ABOVE else k - 1].core
        assert (
            outgoing.sent - neighbour.edges.incoming[stream].released
            <= outgoing.window.max_messages
        )
    computing = State.FORWARD, State.UPDATE
    for stream, incoming in core.edges.incoming.items():
        due = core.plan.due(stream, core.step)
        if stream is ACTIVATION and core.state in computing:
            assert incoming.released <= due < incoming.expected
        if stream is not ACTIVATION and core.state is State.APPLY and due is not None:
            assert incoming.released <= due < incoming.expected


def run_checked(simulation: Simulation) -> None:
    simulation.run()
    for one in simulation.workers:
        steps = range(one.core.plan.num_steps)
        assert [(phase, step) for _, phase, step in one.computed] == [
            (phase, step) for step in steps for phase in Phase
        ]
        assert all(
            incoming.released == incoming.expected for incoming in one.core.edges.incoming.values()
        )


def credit_is_ignored(monkeypatch):
    monkeypatch.setattr(Outgoing, "has_credit", True)


def credit_never_returns(monkeypatch):
    original = Edges.ack

    def ack(self, stream, *, resend=False):
        said = original(self, stream, resend=resend)
        return replace(said, message=replace(said.message, released=0))

    monkeypatch.setattr(Edges, "ack", ack)


def credit_of_activations_returns_two_steps_late(monkeypatch):
    original = WorkerCore._release

    def release(self, stream):
        if stream is ACTIVATION and self.step < self.plan.num_steps - 1:
            if self.step < 2:
                return
            self.step -= 2
            original(self, stream)
            self.step += 2
            return
        original(self, stream)

    monkeypatch.setattr(WorkerCore, "_release", release)


def an_activation_is_released_before_its_update(monkeypatch):
    original = WorkerCore._forward_done

    def forward_done(self, event):
        self._release(ACTIVATION)
        original(self, event)

    def update_done(self, event):
        for tie in (TIE_UP, TIE_DOWN):
            self._make(tie, absent=event.absent)
        self._enter(State.WAIT_TIE)

    handlers = {
        (State.FORWARD, Computed): forward_done,
        (State.UPDATE, Computed): update_done,
    }
    for key, handler in handlers.items():
        monkeypatch.setitem(worker._HANDLERS, key, handler)


def a_tie_is_not_waited_for(monkeypatch):
    original = Edges.has_arrived
    monkeypatch.setattr(
        Edges,
        "has_arrived",
        lambda self, stream, step: stream is not ACTIVATION or original(self, stream, step),
    )


def an_activation_is_not_waited_for(monkeypatch):
    original = Edges.has_arrived
    monkeypatch.setattr(
        Edges,
        "has_arrived",
        lambda self, stream, step: stream is ACTIVATION or original(self, stream, step),
    )


def steps_start_before_their_messages_are_sent(monkeypatch):
    monkeypatch.setattr(Edges, "may_begin_step", lambda self, unmade=(): True)


def a_step_is_skipped(monkeypatch):
    original = WorkerCore._apply_done

    def apply_done(self, event):
        if self.step == 7:
            self.step += 1
        original(self, event)

    monkeypatch.setitem(worker._HANDLERS, (State.APPLY, Computed), apply_done)


def the_downward_tie_is_one_step_younger(monkeypatch):
    """It never comes: the block above needs this step's activations first, and those wait."""
    monkeypatch.setattr(
        WorkerPlan,
        "due",
        lambda self, stream, step: (
            (step + 1 - self.lag if stream is TIE_DOWN and step + 1 >= self.lag else step)
            if stream in self.incoming
            else None
        ),
    )


def a_worker_ends_while_it_is_needed(monkeypatch):
    def drain(self):
        return self._enter(State.DONE)

    monkeypatch.setitem(worker._ADVANCE, State.DRAINING, drain)
    original = WorkerCore.handle
    # What has ended hears and says nothing.
    monkeypatch.setattr(
        WorkerCore,
        "handle",
        lambda self, event: [] if self.state is State.DONE else original(self, event),
    )


def no_one_says_hello(monkeypatch):
    monkeypatch.setattr(WorkerCore, "start", lambda self: [])


BROKEN = [
    credit_is_ignored,
    credit_never_returns,
    credit_of_activations_returns_two_steps_late,
    an_activation_is_released_before_its_update,
    a_tie_is_not_waited_for,
    an_activation_is_not_waited_for,
    steps_start_before_their_messages_are_sent,
    a_step_is_skipped,
    the_downward_tie_is_one_step_younger,
    a_worker_ends_while_it_is_needed,
    no_one_says_hello,
]


@pytest.mark.parametrize("break_it", BROKEN)
def test_broken_core_is_caught(break_it, monkeypatch):
    def run() -> None:
        for seed in range(3):
            run_checked(jittery(5, seed=seed, lag=1))
            run_checked(jittery(5, seed=seed, lag=1, tied=False))

    run()
    break_it(monkeypatch)
    with pytest.raises((Stuck, AssertionError, ProtocolError)):
        run()


def test_acknowledgement_that_is_lost_is_repeated_by_the_tick(monkeypatch):
    def run(*, ticks: bool) -> None:
        simulation = equal_blocks(2, lag=1, latency_s=0.001, num_steps=8)
        transmit, lost = simulation._transmit, []

        def lossy(k, side, event, payload=None):
            if getattr(event, "released", 0) >= 3 and len(lost) < 12:
                lost.append(event)
                return
            transmit(k, side, event, payload)

        simulation._transmit = lossy
        if ticks:
            for turn in range(50):
                for k in range(2):
                    simulation.after(0.1 * turn, lambda k=k: simulation.tick(k))
        run_checked(simulation)
        assert len(lost) == 12

    run(ticks=True)
    with pytest.raises(Stuck):
        run(ticks=False)
    monkeypatch.setitem(worker._ANY_STATE, Tick, lambda self, event: None)
    with pytest.raises(Stuck):
        run(ticks=True)
