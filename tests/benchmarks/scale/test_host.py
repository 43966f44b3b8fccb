"""Simulated hosts: who shares what, and how long work then takes."""

import pytest

from benchmarks.scale.host import SLICE_S, Host, Thread
from runtime.testing.simulation import Simulation


class Bench:
    """A clock with a host, and when what was begun on it ended."""

    def __init__(self, **kwargs):
        self.clock = Simulation([], duration_s=lambda *_: 0.0, latency_s=lambda *_: 0.0)
        self.host = Host(self.clock, **kwargs)
        self.ended_s = {}

    def begin(self, name, duration_s, *, at_s=0.0, copies=False, times=1):
        """Let a thread of its own do something, or that over and over."""
        thread = Thread(self.host, copies=copies)

        def begin():
            for _ in range(times):
                thread.add(duration_s, lambda: self.end(name))

        self.clock.after(at_s, begin)

    def end(self, name):
        self.ended_s[name] = self.clock.now_s

    def run(self):
        self.clock.run()
        return self.ended_s


def test_cores_share_three_long_things_between_two():
    bench = Bench(cores=2)
    for name in "abc":
        bench.begin(name, 1.0)
    assert bench.run() == pytest.approx(dict.fromkeys("abc", 1.5), abs=SLICE_S)


def test_threads_all_work_at_once_if_cores_are_unbounded():
    bench = Bench()
    for name in range(100):
        bench.begin(name, 1.0, at_s=2.0)
    assert set(bench.run().values()) == {3.0}


def test_latecomer_waits_for_a_slice_and_then_shares():
    """a has a core for .5, and half of it until b, of .3, is done."""
    bench = Bench(cores=1)
    bench.begin("a", 1.0)
    bench.begin("b", 0.3, at_s=0.5)
    assert bench.run() == pytest.approx({"a": 1.3, "b": 1.1}, abs=2 * SLICE_S)


@pytest.mark.parametrize("num_long", [1, 5])
def test_newcomer_waits_only_for_the_slice_under_way(num_long):
    bench = Bench(cores=1)
    for k in range(num_long):
        bench.begin(f"long {k}", 1.0)
    at_s = 100.25 * SLICE_S
    bench.begin("short", SLICE_S / 8, at_s=at_s)
    ended_s = bench.run()
    assert ended_s["short"] - at_s == pytest.approx((0.75 + 0.125) * SLICE_S)
    assert max(ended_s.values()) == pytest.approx(num_long + SLICE_S / 8)


def test_first_thread_holds_the_core_for_a_whole_slice():
    bench = Bench(cores=1)
    bench.begin("first", SLICE_S / 3)
    bench.begin("long", 1.0)
    assert bench.run() == pytest.approx({"first": SLICE_S / 3, "long": 1.0 + SLICE_S / 3})


def test_thread_holds_its_core_between_two_things():
    """It waits once, for the slice of one of the long ones."""
    bench = Bench(cores=1)
    for name in ("long", "other"):
        bench.begin(name, 1.0)
    at_s = 10.5 * SLICE_S
    bench.begin("short", SLICE_S / 10, at_s=at_s, times=5)
    assert bench.run()["short"] - at_s == pytest.approx((0.5 + 0.5) * SLICE_S)


def test_thread_never_starves():
    """Two threads that are never done leave the third its share."""
    bench = Bench(cores=1)
    for name in ("busy", "too"):
        bench.begin(name, 0.001, times=1000)
    bench.begin("long", 0.1, at_s=0.2)
    assert bench.run()["long"] == pytest.approx(0.2 + 0.3, abs=3 * SLICE_S)


def test_copies_share_the_memory_beside_what_needs_none():
    """Two copies at two thirds of their speed: 1.5 times as long, and a loop in its own time."""
    bench = Bench(cores=3, copy_speeds=(1.0, 2 / 3))
    bench.begin("one", 1.0, copies=True)
    bench.begin("other", 1.0, copies=True)
    bench.begin("loop", 1.0)
    assert bench.run() == pytest.approx({"one": 1.5, "other": 1.5, "loop": 1.0})


def test_copies_beyond_the_measured_speeds_share_the_last_one():
    bench = Bench(copy_speeds=(1.0, 0.75))
    for name in "abc":
        bench.begin(name, 1.0, copies=True)
    assert bench.run() == pytest.approx(dict.fromkeys("abc", 2.0))


def test_work_goes_on_faster_when_other_work_has_ended():
    """Both at half speed until the short one is done at 1; then the long one alone."""
    bench = Bench(copy_speeds=(1.0, 0.5))
    bench.begin("long", 2.0, copies=True)
    bench.begin("short", 0.5, copies=True)
    assert bench.run() == pytest.approx({"short": 1.0, "long": 2.5})


def test_work_that_takes_no_time_happens_at_once():
    bench = Bench(cores=1)
    Thread(bench.host).add(0.0, lambda: bench.end("nothing"))
    assert bench.ended_s == {"nothing": 0.0}


def test_thread_works_in_order_except_for_what_goes_first():
    bench = Bench()
    thread = Thread(bench.host)

    def answer():
        bench.end("a")
        for name in ("first", "second"):
            thread.add(1.0, lambda name=name: bench.end(name), first=True)

    thread.add(1.0, answer)
    thread.add(1.0, lambda: bench.end("b"))
    assert bench.run() == {"a": 1.0, "first": 2.0, "second": 3.0, "b": 4.0}


def test_threads_cost_is_asked_when_its_work_begins():
    bench = Bench()
    thread = Thread(bench.host)
    cost_s = [1.0]
    thread.add(1.0, lambda: cost_s.append(5.0))
    thread.add(lambda: cost_s[-1], lambda: bench.end("asked"))
    assert bench.run() == {"asked": 6.0}
