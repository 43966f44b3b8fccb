"""The scale benchmark: its cases, its records, and what is made of them."""

import pytest

from benchmarks.harness import Results
from benchmarks.machine_probe import USUAL, Figures, latest, read_step_ends, solve
from benchmarks.scale import Options, draw, make_site, print_curves
from benchmarks.scale_cases import scale_cases, simulate_case
from benchmarks.scale_validation import cases, print_validation

SITE = make_site(Options(workers_per_host=2), [])


def simulated(**changes):
    settings = {"workers": (2, 4), "steps": 6, "step_s": 0.06, "message_bytes": 4000}
    all_cases = scale_cases(SITE, **settings | {"jitters": ("", "exponential:0.2")} | changes)
    return [simulate_case(case) for case in all_cases]


def test_a_record_says_what_the_curves_show():
    lag_0, lag_1, _ = simulated(workers=(4,), jitters=("",))
    assert (lag_0["curve"], lag_0["hosts"]) == ("lag 0, window 2", 2)
    assert lag_0["share_of_full_rate"] < 0.8 < lag_1["share_of_full_rate"] < 1
    assert lag_0["fill_s"] == pytest.approx(0.12, rel=0.1)  # three forwards and a step
    assert lag_0["retained_bytes"] > lag_0["retained_bytes_per_worker"] > 0


def test_curves_are_shown_and_drawn(tmp_path, capsys):
    records = simulated()
    print_curves(records)
    draw(records, tmp_path / "scale.png")
    assert capsys.readouterr().out.count("lag 4, window 5, stalls exponential:0.2") == 2
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_every_worker_of_the_curves_has_a_core():
    assert SITE.machine.cores is None


# Validation -------------------------------------------------------------------------------------


def test_cases_with_large_messages_stop_where_memory_would():
    names = {n: [case.name for case in cases([n], steps=40)] for n in (4, 8)}
    assert "64 MB, zmq-ipc" in names[4]
    assert not [name for name in names[8] if "64 MB" in name]


def test_a_validation_says_which_error_is_over_the_aim(capsys):
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
    assert latest(results.read()) == figures
    assert latest([]) == USUAL


def test_step_ends_are_read_block_by_block():
    records = [
        {"block": 1, "t": 5.0},
        {"block": 0, "t": 1.0},
        {"event": "restart", "block": 0, "t": 2.0},
        {"block": 0, "t": 3.0},
    ]
    assert read_step_ends(records, 2) == [[1.0, 3.0], [5.0]]


def test_a_falling_function_is_solved():
    assert solve(lambda x: 10 - x, 7.0, 5.0) == pytest.approx(3.0, abs=1e-4)
