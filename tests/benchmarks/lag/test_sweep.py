"""The picture of lags: which records stand for which lag."""

from dataclasses import replace

import pytest

from benchmarks.harness import Results
from benchmarks.lag import sweep
from benchmarks.lag.sweep import (
    REAL,
    SIMULATED,
    Options,
    accuracies,
    accuracy_records,
    draw,
    shares,
    show,
    slept,
)
from benchmarks.scale.machine_probe import USUAL


def run(method, top1, seed=0, *, tie="gradient", lag=0, epochs=12):
    config = f'tie = "{tie}"\nlag = {lag}\nseed = {seed}\nsplit = {seed}\nepochs = {epochs}\n'
    return {"method": method, "linear_top1": top1, "seed": seed, "config": config}


ACCURACY = [
    {"header": {}},
    run("LoCo exact", 0.9),
    run("gradient, lag 4", 0.8, lag=4),
    run("gradient, lag 4", 0.7, seed=1, lag=4),
    run("elastic, lag 1", 0.6, tie="elastic", lag=1),
    run("untied", 0.5, tie="none"),
]
RECORDS = [
    {"jitter": "often", "system": system, "lag": lag, "share_of_full_rate": share}
    for system, lag, share in (
        (SIMULATED, 0, 0.5),
        (SIMULATED, 1, 0.7),
        (SIMULATED, 1, 0.9),
        (REAL, 1, 0.75),
    )
]


def test_exact_method_is_the_gradient_tie_with_lag_0():
    found = accuracies(ACCURACY, "gradient")
    assert list(found) == [0, 4]
    assert found[4].spread == pytest.approx((0.75, 0.7, 0.8))
    assert [found[lag].num_seeds for lag in (0, 4)] == [1, 2]
    assert list(accuracies(ACCURACY, "elastic")) == [1]


def test_accuracy_is_of_one_config():
    """Runs of any length and settings were one mean, of a number of seeds that was not said."""
    short = [run("LoCo exact", 0.1, epochs=1), run("gradient, lag 4", 0.1, lag=4, epochs=1)]
    assert accuracies([*ACCURACY, *short], "gradient") == accuracies(ACCURACY, "gradient")
    as_many = [run("LoCo exact", 0.2, seed, epochs=1) for seed in range(4)]
    assert accuracies([*ACCURACY, *as_many], "gradient")[0].spread.median == pytest.approx(0.2)
    assert accuracies([], "gradient") == {}


def test_recorded_accuracy_is_of_five_seeds():
    found = accuracies(accuracy_records(), "elastic")
    assert {lag: of_lag.num_seeds for lag, of_lag in found.items()} == {1: 5, 4: 5}


def test_simulated_records_say_whose_figures_they_have(monkeypatch, tmp_path, capsys):
    validation = Results(tmp_path / "validation.jsonl")
    other = {"machine": "a Xeon", "cores": "64", "commit": "abc"}
    validation.append({"figures": USUAL.facts(), "header": other})
    monkeypatch.setattr(sweep, "VALIDATION", validation.path)
    few = Options(workers=2, steps=20, lags=(0,), real_lags=(), draws=1)
    sweep.main(replace(few, json=tmp_path / "lag.jsonl", picture=tmp_path / "lag.png"))
    assert "ANOTHER machine, a Xeon, 64 cores (commit abc)" in capsys.readouterr().out


def test_shares_are_of_one_system():
    assert shares(RECORDS, "often", SIMULATED)[1].median == pytest.approx(0.8)
    assert list(shares(RECORDS, "often", REAL)) == [1]


def test_window_grows_with_the_lag():
    windows = [slept(Options(), lag, "", 0).window for lag in (0, 1, 4)]
    assert windows == [2, 2, 5]


def test_lag_without_accuracy_has_its_place(tmp_path, capsys):
    show(RECORDS, ACCURACY)
    draw(RECORDS, ACCURACY, tmp_path / "lag.png")
    said = capsys.readouterr().out
    assert "0.800 (0.750)" in said
    assert "0.9000 (1)" in said
    assert said.endswith("simulated by the figures of a machine that was not recorded\n")
    assert (tmp_path / "lag.png").read_bytes().startswith(b"\x89PNG")
