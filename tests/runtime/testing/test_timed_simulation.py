"""The simulation with a machine below it, against times that can be counted by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest

from runtime.core.messages import Arrived
from runtime.core.plan import Free, Stream, Window, WorkerPlan
from runtime.testing.network import Machine, Wire
from runtime.testing.simulation import Simulation
from runtime.testing.slept import SleptConfig
from runtime.testing.slept_simulation import (
    simulate,
    simulated_samples_per_s,
    simulated_step_ends,
    step_ends,
    steps_per_s,
)
from runtime.testing.timed_simulation import TimedSimulation

CONFIG = SleptConfig(
    workers=2,
    steps=8,
    step_s=0.06,
    forward_share=1 / 3,
    activation_bytes=1000,
    tie_bytes=1000,
    lag=1,
    window=2,
    link="shm",
    snapshot_every=1,
)
FREE, NEAR = Machine(), Wire()


def period_s(config: SleptConfig, machine: Machine, wire: Wire = NEAR) -> float:
    ends_s = simulated_step_ends(config, machine=machine, wire=wire)
    return 1 / steps_per_s(ends_s, warm_up=4)


@pytest.mark.parametrize("jitter", ["", "exponential:0.2"])
def test_a_machine_that_takes_no_time_is_the_plain_simulation(jitter):
    config = replace(CONFIG, jitter=jitter)
    timed = steps_per_s(simulated_step_ends(config, machine=FREE, wire=NEAR))
    assert timed == pytest.approx(simulated_samples_per_s(config))


def test_each_step_of_a_worker_takes_one_of_the_overheads():
    alone = replace(CONFIG, workers=1, steps=200)
    assert period_s(alone, Machine(step_overheads_s=(0.004,))) == pytest.approx(0.064)
    machine = Machine(step_overheads_s=(0.0, 0.0, 0.012))
    ends_s = simulated_step_ends(alone, machine=machine, wire=NEAR)[0]
    took_s = [after - before for before, after in pairwise(ends_s)]
    assert {round(s, 9) for s in took_s} == {0.06, 0.072}
    assert 0.2 < sum(s > 0.066 for s in took_s) / len(took_s) < 0.45


@pytest.mark.parametrize("snapshot_every", [1, 100])
def test_what_is_small_is_copied_by_who_tells_the_core(snapshot_every):
    """The loop, while the block goes on; with lag 0 a block waits for the copies of an activation
    and of the tie that comes back, 1 ms each."""
    machine = Machine(copy_bytes_per_s=1e6)
    config = replace(CONFIG, snapshot_every=snapshot_every)
    assert period_s(config, machine) == pytest.approx(0.06)
    assert period_s(replace(config, lag=0), FREE) == pytest.approx(0.08)
    assert period_s(replace(config, lag=0), machine) == pytest.approx(0.082)


@pytest.mark.parametrize("snapshot_every", [1, 100])
def test_what_is_large_is_copied_while_it_goes_on(snapshot_every):
    """Some 17 ms of copies a message are hidden; a snapshot waits for them, and not the block."""
    large = replace(CONFIG, activation_bytes=500_000, tie_bytes=500_000, steps=24)
    config = replace(large, snapshot_every=snapshot_every)
    assert period_s(config, Machine(copy_bytes_per_s=3e7)) == pytest.approx(0.06)
    assert period_s(config, Machine(copy_bytes_per_s=1e7)) == pytest.approx(0.1)  # the copies


def test_loops_that_share_a_core_wait_for_each_other():
    config = replace(CONFIG, activation_bytes=40_000, tie_bytes=40_000)
    machine = Machine(copy_bytes_per_s=1e6)  # 80 ms a step below, 40 above
    assert period_s(config, machine) == pytest.approx(0.14, rel=0.02)
    assert period_s(config, replace(machine, cores=1)) > 0.15


def test_a_slow_wire_bounds_the_rate():
    """An activation and an upward tie a step over 20 kB/s are 100 ms."""
    wire = Wire(transfer_bytes_per_s=20_000.0)
    assert period_s(replace(CONFIG, steps=20), FREE, wire) == pytest.approx(0.1, rel=0.01)


def test_only_neighbours_on_two_hosts_have_the_way_between_hosts():
    """Beside the way itself there is a handshake, there and back, in which those below fill."""
    far = Wire(latency_s=1.0)
    fills_s = []
    for workers_per_host in (4, 2, 1):
        run = simulate(
            replace(CONFIG, workers=4, steps=2),
            machine=FREE,
            wire=NEAR,
            between_hosts=far,
            workers_per_host=workers_per_host,
        )
        fills_s.append(step_ends(run)[-1][0])
    assert fills_s == pytest.approx([0.12, 2 + 1 + 0.1, 2 + 3 + 0.12])


def test_memory_of_messages_is_counted_at_its_most():
    run = simulate(CONFIG, machine=FREE, wire=NEAR)
    window, lag, until_covered = CONFIG.window, CONFIG.lag, 1
    most = 2 * (window + lag + until_covered) * 1000
    assert 2000 <= run.most_in_flight_bytes[0] <= run.most_retained_bytes[0] <= most


# Without a fixed lag ----------------------------------------------------------------------------


def free_plans(*, drops: bool) -> list[WorkerPlan]:
    """Two workers with large messages; the upper one trains again while it is starved."""
    free = Free(max_staleness=20, keeps_newest=True, num_kept=2, drops_oldest=drops)
    window = Window(max_messages=2, max_bytes=1 << 30, message_bytes=1_000_000)
    up = dict.fromkeys((Stream.ACTIVATION, Stream.TIE_UP), window)
    down = {Stream.TIE_DOWN: replace(window, message_bytes=4_000_000)}
    return [
        WorkerPlan(num_steps=20, free=free, incoming=down, outgoing=up),
        WorkerPlan(num_steps=20, free=free, incoming=up, outgoing=down),
    ]


@pytest.mark.parametrize("slow", [0, 1])
def test_free_ties_on_a_machine_that_takes_no_time_are_the_plain_simulation(slow):
    """The slow one starves the other, or is flooded by it."""

    def duration_s(k, phase, step):
        return 0.03 if k == slow else 0.007

    plans = free_plans(drops=True)
    plain = Simulation(plans, duration_s=duration_s, latency_s=lambda _from, _to: 0.001)
    near = Wire(latency_s=0.001)
    timed = TimedSimulation(plans, duration_s=duration_s, machine=FREE, wire=near)
    assert timed.run() == plain.run()
    for one, other in zip(plain.workers, timed.workers, strict=True):
        assert other.computed == one.computed
        assert other.replayed == one.replayed
        assert other.core.account == one.core.account
    starved, flooded = timed.workers[1].replayed, timed.workers[1].core.account.lost
    assert bool(starved) == (slow == 0)
    assert bool(flooded) == (slow == 1)


def test_marks_of_what_was_dropped_do_not_overtake_copies_and_take_no_time_on_a_wire():
    machine = Machine(copy_bytes_per_s=1e8, message_s=0.001)  # 40 ms for a tie from above
    arrived: dict[Stream, list[int]] = {stream: [] for stream in Stream}

    class Watched(TimedSimulation):
        def _reach(self, k, event, payload=None):
            if isinstance(event, Arrived):
                arrived[event.stream].append(event.step)
            super()._reach(k, event, payload)

    simulation = Watched(
        free_plans(drops=True),
        duration_s=lambda k, phase, step: 0.02 if k else 0.001,
        machine=machine,
        wire=Wire(transfer_bytes_per_s=1e9),
    )
    simulation.run()
    assert simulation.workers[1].core.account.lost > 0
    for steps in arrived.values():
        assert steps == list(range(20))
