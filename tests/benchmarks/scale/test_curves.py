"""The scale benchmark's curves: of which machine they are, and that they are shown and drawn."""

from dataclasses import replace

from benchmarks.harness import Results
from benchmarks.scale import curves
from benchmarks.scale.curves import Options, draw, main, make_site, print_curves
from benchmarks.scale.machine_probe import USUAL
from benchmarks.scale.network import Machine

from .test_cases import simulated


def test_curves_are_shown_and_drawn(tmp_path, capsys):
    records = simulated()
    print_curves(records)
    draw(records, tmp_path / "scale.png")
    said = capsys.readouterr().out
    assert said.count("lag 4, window 5, stalls exponential:0.2") == 2
    assert said.endswith("simulated by the figures of a machine that was not recorded\n")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_curves_say_of_which_machine_they_are(monkeypatch, tmp_path, capsys):
    """The header is of the machine that simulates, the figures of one that was measured."""
    validation = Results(tmp_path / "validation.jsonl")
    other = {"machine": "a Xeon", "cores": "64", "commit": "abc"}
    validation.append({"figures": USUAL.facts(), "header": other})
    monkeypatch.setattr(curves, "VALIDATION", validation.path)
    few = Options(workers=(2,), steps=20, jitter=(), processes=1)
    main(replace(few, json=tmp_path / "scale.jsonl", picture=tmp_path / "scale.png"))
    assert "ANOTHER machine, a Xeon, 64 cores (commit abc)" in capsys.readouterr().out


def test_curves_give_each_worker_a_core_memory_and_no_stalls():
    machine = Machine(step_overheads_s=(0.1, 0.0, 0.002), copy_speeds=(1.0, 0.5), cores=2)
    figures = replace(USUAL, machine=machine)
    site = make_site(Options(), [{"figures": figures.facts()}])
    assert site.machine == Machine(step_overheads_s=(0.002,))
