"""What is measured of a machine: a simulated one is found again by its probes."""

import statistics
import subprocess
import sys
import time

import pytest

from benchmarks.harness import Results
from benchmarks.scale import machine_probe
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

from .test_cases import SITE

STEPS = 60


def test_figures_survive_a_file(tmp_path):
    results = Results(tmp_path / "validation.jsonl")
    figures = Figures(machine=SITE.machine, shm=USUAL.zmq_ipc, zmq_ipc=USUAL.shm)
    results.append({"figures": figures.facts()})
    assert latest([{"figures": USUAL.facts()}, *results.read()]) == figures
    assert latest([]) == USUAL


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
