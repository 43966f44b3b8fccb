"""The scale benchmark: its cases, its records, and what is made of them."""

import statistics
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from benchmarks.harness import Results
from benchmarks.scale import cases as curve_cases
from benchmarks.scale import machine_probe
from benchmarks.scale.curves import Options, draw, make_site, print_curves
from benchmarks.scale.machine_probe import (
    USUAL,
    Figures,
    ProcessorMeter,
    fitted_latency_s,
    latest,
    read_step_ends,
)
from benchmarks.scale.network import Machine, Wire
from benchmarks.scale.slept_simulation import simulate, step_ends
from benchmarks.scale.validation import VALIDATION, cases, print_validation

STEPS = 60
SITE = make_site(Options(workers_per_host=2), [])


def simulated(**changes):
    settings = {"workers": (2, 4), "steps": 6, "step_s": 0.06, "message_bytes": 4000}
    all_cases = curve_cases.scale_cases(
        SITE, **settings | {"jitters": ("", "exponential:0.2")} | changes
    )
    return [curve_cases.simulate_case(case) for case in all_cases]


def test_record_says_what_the_curves_show():
    lag_0, lag_1, _ = simulated(workers=(4,), jitters=("",))
    assert (lag_0["curve"], lag_0["hosts"]) == ("lag 0, window 2", 2)
    assert lag_0["share_of_full_rate"] < 0.8 < lag_1["share_of_full_rate"] < 1
    assert lag_0["fill_s"] == pytest.approx(0.12, rel=0.1)  # three forwards and a step
    assert lag_0["retained_bytes"] > lag_0["retained_bytes_per_worker"] > 0


def test_rate_is_counted_when_it_is_steady():
    records = simulated(workers=(2, 8), jitters=("",), steps=20)
    shares = {r["workers"]: r["share_of_full_rate"] for r in records if r["lag"] == 1}
    assert shares[8] == pytest.approx(shares[2], abs=1e-3)


def test_lowest_worker_runs_ahead_until_the_rate_is_steady(monkeypatch):
    monkeypatch.setattr(curve_cases, "WARM_UP", 1)
    (record,) = [r for r in simulated(workers=(8,), steps=20) if r["lag"] == 4 and r["jitter"]]
    assert record["share_of_full_rate"] < record["share_of_lowest_worker"] < 1


def test_curves_are_shown_and_drawn(tmp_path, capsys):
    records = simulated()
    print_curves(records)
    draw(records, tmp_path / "scale.png")
    assert capsys.readouterr().out.count("lag 4, window 5, stalls exponential:0.2") == 2
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_curves_give_each_worker_a_core_memory_and_no_stalls():
    machine = Machine(step_overheads_s=(0.1, 0.0, 0.002), copy_speeds=(1.0, 0.5), cores=2)
    figures = replace(USUAL, machine=machine)
    site = make_site(Options(), [{"figures": figures.facts()}])
    assert site.machine == Machine(step_overheads_s=(0.002,))


# Validation -------------------------------------------------------------------------------------


def test_cases_with_large_messages_stop_at_the_memory_bound():
    names = {n: [case.name for case in cases([n], steps=40)] for n in (4, 8)}
    assert "64 MB, zmq-ipc" in names[4]
    assert not [name for name in names[8] if "64 MB" in name]


def test_validation_says_which_error_is_over_the_aim(capsys):
    record = {"case": "lag 0", "workers": 2, "measured_steps_per_s": 10.0}
    errors = [{"simulated_steps_per_s": 10.5, "error": e} for e in (0.05, 0.01, 0.04)]
    print_validation([{"figures": USUAL.facts()}, *(record | error for error in errors)])
    out = capsys.readouterr().out
    assert "+4.0%" in out
    assert "+5.0%" in out
    assert "over 3%" in out


def test_figures_survive_a_file(tmp_path):
    results = Results(tmp_path / "validation.jsonl")
    figures = Figures(machine=SITE.machine, shm=USUAL.zmq_ipc, zmq_ipc=USUAL.shm)
    results.append({"figures": figures.facts()})
    assert latest([{"figures": USUAL.facts()}, *results.read()]) == figures
    assert latest([]) == USUAL


def test_figures_stored_in_the_tree_can_be_read():
    assert latest(Results(VALIDATION).read()).machine.message_s > 0


def test_probes_find_what_a_machine_takes(monkeypatch):
    """A simulated one, run in the place of this one."""
    machine = Machine(message_s=2e-4, step_overheads_s=(3e-4, 1e-3, 1e-4), cores=2)
    wire = Wire(latency_s=1e-3)
    num_works = []

    class Meter:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def used_s(self, begin_s, end_s):
            rate = num_works[-1] / STEPS / (0.06 + statistics.mean(machine.step_overheads_s))
            return machine.message_s * rate * (end_s - begin_s)

    def run(config):
        simulation = simulate(config, machine=machine, wire=wire)
        num_works.append(simulation.num_works)
        return step_ends(simulation)

    monkeypatch.setattr(machine_probe, "run_really", run)
    monkeypatch.setattr(machine_probe, "ProcessorMeter", Meter)
    found = machine_probe._calibrated(Machine(cores=2), steps=STEPS)
    assert found.message_s == pytest.approx(machine.message_s, rel=0.02)
    overheads_s = found.step_overheads_s
    assert statistics.mean(overheads_s) == pytest.approx(1.4e-3 / 3, abs=3e-5)
    assert max(overheads_s) - min(overheads_s) > 8e-4
    latency_s = machine_probe._latency_s(found, steps=STEPS)
    assert latency_s == pytest.approx(wire.latency_s, rel=0.1)


def test_processor_time_of_descendants_is_measured():
    spin = "import time; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    with ProcessorMeter() as meter:
        began_s = time.time()
        subprocess.run([sys.executable, "-c", spin + "\ntime.sleep(0.6)"], check=True)
        ended_s = time.time()
    assert meter.used_s(began_s, ended_s - 0.3) == pytest.approx(0.6, abs=0.15)


def test_step_ends_are_read_block_by_block():
    records = [
        {"block": 1, "t": 5.0},
        {"block": 0, "t": 1.0},
        {"event": "restart", "block": 0, "t": 2.0},
        {"block": 0, "t": 3.0},
    ]
    assert read_step_ends(records, 2) == [[1.0, 3.0], [5.0]]


def test_latency_is_fitted_within_its_bounds():
    def rate_of(latency_s):
        return 10 - 100 * latency_s

    assert fitted_latency_s(rate_of, 9.5) == pytest.approx(5e-3)
    assert fitted_latency_s(rate_of, 11.0) == 0.0
    with pytest.raises(RuntimeError, match=r"made 5\.00 steps a second"):
        fitted_latency_s(rate_of, 5.0)
