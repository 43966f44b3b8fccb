"""The simulation with a machine below it, against times that can be counted by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.scale.network import Machine, Wire
from benchmarks.scale.slept_simulation import (
    simulate,
    simulated_samples_per_s,
    simulated_step_ends,
    step_ends,
    steps_per_s,
)
from benchmarks.scale.timed_simulation import TimedSimulation
from runtime.core.messages import SnapshotDurable
from runtime.core.plan import Free, Stream, Window, WorkerPlan
from runtime.testing.simulation import Simulation
from runtime.testing.slept import SleptConfig, SleptJob

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
def test_machine_that_takes_no_time_is_the_plain_simulation(jitter):
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


@pytest.mark.parametrize(("size", "num_copies"), [(1000, 0), (500_000, 1)])
def test_messages_and_events_cost_whoever_handles_them(size, num_copies):
    """With lag 0 a step waits for what the home's forward, the other's forward and update, and the
    home's apply cost to note, for the loops to hear of what was made, and for an activation, an
    acknowledgement before the tie, and the tie to be sent, and two of them to be taken up; if
    they are large, for the copy of the activation, and while the tie is copied both that
    acknowledgement and another one are sent before it."""
    num = 4 + 2 + 3 + 2 + 2 * num_copies
    config = replace(CONFIG, lag=0, snapshot_every=100, activation_bytes=size, tie_bytes=size)
    assert period_s(config, Machine(message_s=1e-4)) == pytest.approx(0.08 + num * 1e-4)


def test_loops_of_both_ends_handle_tensors_at_their_rates():
    """An activation there and a tie back, with lag 0: 1000 bytes each."""
    config = replace(CONFIG, lag=0)
    for wire in (Wire(send_bytes_per_s=1e6), Wire(receive_bytes_per_s=1e6)):
        assert period_s(config, FREE, wire) == pytest.approx(0.08 + 0.002)


def test_overhead_does_not_delay_the_activation_of_a_forward():
    """Of a negative one no more is taken than there is."""
    config = replace(CONFIG, workers=2, steps=1)
    for overhead_s, upper_ends_s in ((0.01, 0.09), (-1.0, 0.04)):
        machine = Machine(step_overheads_s=(overhead_s,))
        ends_s = simulated_step_ends(config, machine=machine, wire=NEAR)
        assert ends_s[1] == pytest.approx([upper_ends_s])


def test_transfers_by_cores_hold_up_a_pipeline():
    """Two up and one down of 10 ms each a step, one at a time on one edge; beside a busy core."""
    wire = Wire(transfer_bytes_per_s=1e5, takes_cores=True)
    small = replace(CONFIG, steps=30)
    assert period_s(replace(small, step_s=0.006), FREE, wire) == pytest.approx(0.03, rel=0.02)
    assert period_s(replace(small, step_s=0.06), FREE, wire) == pytest.approx(0.06, rel=0.02)


def test_copies_of_one_host_slow_each_other_down():
    config = replace(CONFIG, workers=3, activation_bytes=500_000, tie_bytes=500_000, steps=24)
    machine = Machine(copy_bytes_per_s=2.5e7)  # 60 ms of copies a step in the middle
    alone_s = period_s(config, machine)
    assert period_s(config, replace(machine, copy_speeds=(1.0, 1.0))) == pytest.approx(alone_s)
    assert period_s(config, replace(machine, copy_speeds=(1.0, 0.5))) > 1.1 * alone_s


def test_state_is_durable_behind_the_copies_before_it():
    heard_s = {True: [], False: []}

    class Watched(TimedSimulation):
        def _deliver(self, k, event, payload=None):
            if isinstance(event, SnapshotDurable) and k == 0:
                heard_s[self._machine.copy_bytes_per_s < 1e9].append(self.now_s)
            super()._deliver(k, event, payload)

    config = replace(CONFIG, activation_bytes=500_000, tie_bytes=500_000, steps=2)
    job = SleptJob(config)
    for machine in (FREE, Machine(copy_bytes_per_s=5e6)):  # 100 ms a copy
        Watched(
            [job.plan(k) for k in range(2)],
            duration_s=lambda k, phase, step: 0.01,
            machine=machine,
            wire=NEAR,
        ).run()
    late_s = [slow - quick for slow, quick in zip(heard_s[True], heard_s[False], strict=True)]
    assert max(late_s) > 0.1


@pytest.mark.parametrize("snapshot_every", [1, 100])
def test_small_message_is_copied_by_the_loop_of_the_core(snapshot_every):
    """The loop, while the block goes on; with lag 0 a block waits for the copies of an activation
    and of the tie that comes back, 1 ms each."""
    machine = Machine(copy_bytes_per_s=1e6)
    config = replace(CONFIG, snapshot_every=snapshot_every)
    assert period_s(config, machine) == pytest.approx(0.06)
    assert period_s(replace(config, lag=0), FREE) == pytest.approx(0.08)
    assert period_s(replace(config, lag=0), machine) == pytest.approx(0.082)


LARGE = replace(CONFIG, activation_bytes=500_000, tie_bytes=500_000, steps=24)


def test_large_message_is_copied_while_the_block_goes_on():
    """Some 17 ms of copies a message are hidden."""
    config = replace(LARGE, snapshot_every=100)
    assert period_s(config, Machine(copy_bytes_per_s=3e7)) == pytest.approx(0.06)
    assert period_s(config, Machine(copy_bytes_per_s=1e7)) == pytest.approx(0.1)  # the copies


def test_state_is_saved_when_the_tie_before_it_is_copied():
    """The activation is copied long since, and the tie for some 17 ms."""
    assert period_s(LARGE, Machine(copy_bytes_per_s=3e7)) == pytest.approx(0.06 + 0.5 / 30)


def test_loops_that_share_a_core_wait_for_each_other():
    config = replace(CONFIG, activation_bytes=40_000, tie_bytes=40_000)
    machine = Machine(copy_bytes_per_s=1e6)  # 80 ms a step below, 40 above
    assert period_s(config, machine) == pytest.approx(0.14, rel=0.02)
    assert period_s(config, replace(machine, cores=1)) > 0.15


def test_slow_wire_bounds_the_rate():
    """An activation and an upward tie a step over 20 kB/s are 100 ms."""
    wire = Wire(transfer_bytes_per_s=20_000.0)
    assert period_s(replace(CONFIG, steps=20), FREE, wire) == pytest.approx(0.1, rel=0.01)


def test_wire_between_hosts_is_for_neighbours_on_two_hosts():
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


def free_plans() -> list[WorkerPlan]:
    """Two workers with large messages."""
    free = Free(max_staleness=20, keeps_newest=True)
    window = Window(max_messages=2, max_bytes=1 << 30, message_bytes=1_000_000)
    up = dict.fromkeys((Stream.ACTIVATION, Stream.TIE_UP), window)
    down = {Stream.TIE_DOWN: replace(window, message_bytes=4_000_000)}
    return [
        WorkerPlan(num_steps=20, free=free, incoming=down, outgoing=up),
        WorkerPlan(num_steps=20, free=free, incoming=up, outgoing=down),
    ]


@pytest.mark.parametrize("slow", [0, 1])
def test_free_ties_without_overheads_are_the_plain_simulation(slow):
    """On a machine that takes no time, the slow block starves the other, or holds it up."""

    def duration_s(k, phase, step):
        return 0.03 if k == slow else 0.007

    plans = free_plans()
    plain = Simulation(plans, duration_s=duration_s, latency_s=lambda _from, _to: 0.001)
    near = Wire(latency_s=0.001)
    timed = TimedSimulation(plans, duration_s=duration_s, machine=FREE, wire=near)
    assert timed.run() == plain.run()
    for one, other in zip(plain.workers, timed.workers, strict=True):
        assert other.computed == one.computed
        assert other.core.tie_stats == one.core.tie_stats
