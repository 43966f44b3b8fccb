"""The accuracy benchmark's runs: like is trained beside like, and a file is resumed."""

import dataclasses
import math
import tomllib
from pathlib import Path

import pytest

from benchmarks.accuracy import runs
from benchmarks.accuracy.regimes import CIFAR10, DIGITS, REGIMES
from benchmarks.accuracy.runs import (
    accuracy,
    explored_here,
    find_missing,
    make_tasks,
    measure_all,
    tasks_of,
    whole_seeds,
)
from benchmarks.harness import Results
from launch.config import DEFAULT_LAG, ConfigError, RunConfig

TINY = {"data": "synthetic:1x8x8x64", "split": 0, "model": "mlp", "batch_size": 16, "steps": 2}


def of_digits(num_seeds, **changes):
    return make_tasks(DIGITS, DIGITS.methods, range(num_seeds), **changes)


def test_five_seeds_hold_out_each_split_once():
    tasks = of_digits(5)
    assert len(tasks) == 5 * len(DIGITS.methods)
    assert {(task.method, task.config.split) for task in tasks} == {
        (method, split) for method in DIGITS.methods for split in range(5)
    }


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_methods_differ_in_the_rule_only(regime):
    rule = {"method": "local", "overlap": 1, "tie": "none", "lag": 0}
    rule |= {"workers": None, "cuts": None}
    tasks = make_tasks(regime, regime.methods, [0])
    configs = [dataclasses.replace(task.config, **rule) for task in tasks]
    assert len(configs) == len(regime.methods)
    assert all(config == configs[0] for config in configs)


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_claims_are_of_methods_that_are_compared(regime):
    for aim in regime.aims:
        assert {aim.method, aim.baseline} <= regime.methods.keys()
    assert not regime.explored.keys() & regime.methods.keys()


def test_overlap_is_the_only_difference_at_locos_own_cut():
    """GIM at LoCo's cut has its blocks, heads and data, and no guests."""
    gim, loco = (
        RunConfig(**{**CIFAR10.settings, **CIFAR10.methods[name]})
        for name in ("GIM, S1|S2|S3+S4", "LoCo exact")
    )
    assert dataclasses.replace(gim, overlap=loco.overlap, tie=loco.tie, lag=loco.lag) == loco


def test_main_jobs_default_is_among_the_methods():
    default = RunConfig(device="cpu", threads=1, lag=DEFAULT_LAG)
    assert default in [task.config for task in of_digits(1)]


def test_record_does_not_tell_where_the_data_lie(tmp_path):
    (task, *_) = make_tasks(CIFAR10, CIFAR10.methods, [0], path=tmp_path)
    assert task.config.data == f"cifar10:{tmp_path}"
    assert 'data = "cifar10"' in task.config_toml
    assert str(tmp_path) not in task.config_toml


# Runs -------------------------------------------------------------------------------------------


def test_every_method_trains_and_is_measured():
    """In another process, which then measures the first again: what a run leaves is no matter."""
    tasks = of_digits(1, **TINY)
    *records, again = measure_all([*tasks, tasks[0]], 1)
    assert sorted(record["method"] for record in records) == sorted(DIGITS.methods)
    for record in records:
        assert 0 <= record["linear_top1"] <= 1
        assert 0 <= record["knn_top1"] <= 1
        assert record["steps"] == 2
        assert all(map(math.isfinite, record["losses"]))
        assert len(record["losses"]) == (1 if record["method"] == "end-to-end" else 4)
        assert tomllib.loads(record["config"])["batch-size"] == TINY["batch_size"]

    first = next(record for record in records if record["method"] == again["method"])
    for key in ("method", "seed", "linear_top1", "knn_top1", "units", "losses", "config"):
        assert first[key] == again[key]


def record_of(task, processor="amx", **figures):
    """A run's record, as far as it says which run it is of."""
    record = {"method": task.method, "seed": task.seed, "config": task.config_toml}
    return record | {"processor": processor} | figures


def test_resumed_file_lacks_only_what_it_does_not_hold(tmp_path):
    tasks = of_digits(2, **TINY)
    results = Results(tmp_path / "a.jsonl")
    results.append({"header": {"commit": "of an earlier version"}})
    results.append(record_of(tasks[0]))
    assert find_missing(tasks, results, "amx") == tasks[1:]

    longer = of_digits(2, **(TINY | {"steps": 3}))
    assert find_missing(longer, results, "amx") == longer


def test_seed_is_run_on_one_kind_of_processor(tmp_path):
    """A campaign that moved to another machine compared methods across two kinds."""
    tasks = of_digits(2, **TINY)
    first, second = ([task for task in tasks if task.seed == seed] for seed in (0, 1))
    results = Results(tmp_path / "a.jsonl")
    for task in [*first, second[0]]:
        results.append(record_of(task, "amx"))
    assert find_missing(tasks, results, "avx") == second  # the first seed is whole on its kind
    assert find_missing(tasks, results, "amx") == second[1:]
    results.append(record_of(second[1], "avx"))
    assert find_missing(tasks, results, "avx") == [second[0], *second[2:]]


def test_table_is_of_seeds_that_are_whole_on_one_kind():
    tasks = of_digits(3, **TINY)
    kinds = {0: ["amx"], 1: ["amx", "avx"], 2: ["amx", "avx"]}
    explored = make_tasks(DIGITS, DIGITS.explored, [1], **TINY)
    records = [
        record_of(task, kind)
        for task in tasks
        for kind in kinds[task.seed]
        if (task.seed, kind, task.method) not in {(2, "amx", "GIM"), (2, "avx", "LoCo exact")}
    ]
    records.append(record_of(explored[0], "avx"))
    found = {(r["seed"], r["processor"]) for r in whole_seeds(records, DIGITS.methods)}
    assert found == {(0, "amx"), (1, "avx")}  # of two that are whole, the one that explored more


def test_explored_runs_have_the_seed_of_a_comparison_on_their_kind(tmp_path):
    """They were all of seed 0; on another kind than its comparison's they were run for nothing."""
    tasks = tasks_of(DIGITS, range(3), **TINY)
    results = Results(tmp_path / "a.jsonl")
    for task in tasks["compared"]:
        results.append(record_of(task, "avx" if task.seed == 0 else "amx"))
    seeds = {
        kind: {task.seed for task in explored_here(tasks, results, kind)}
        for kind in ("avx", "amx", "neon")
    }
    assert seeds == {"avx": {0}, "amx": {1}, "neon": {0}}
    assert len(explored_here(tasks, results, "amx")) == len(DIGITS.explored)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"regime": "digit"}, "no regime 'digit'; choose one of digits"),
        ({"regime": "cifar10"}, "regime 'cifar10' needs the --path of its data"),
        ({"path": Path("x")}, "regime 'digits' has its own data, without --path"),
        ({"regime": "cifar10", "path": Path("/nowhere")}, "data 'cifar10:/nowhere'"),
    ],
)
def test_wrong_flag_is_refused_before_any_run(flags, told, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "measure_all", None)
    with pytest.raises(ConfigError, match=told):
        accuracy(**flags, json=tmp_path / "found.jsonl")


def test_only_searched_settings_hold_a_part_of_the_training_images_out():
    """With a seed that no comparison has."""
    found = tasks_of(CIFAR10, range(3))
    assert {task.config.validation for task in found["searched"]} == {0.1}
    assert {task.config.validation for task in found["compared"] + found["explored"]} == {0}
    seeds = {what: {task.seed for task in tasks} for what, tasks in found.items()}
    assert seeds == {"compared": {0, 1, 2}, "explored": {0, 1, 2}, "searched": {100}}


def test_table_is_of_the_runs_that_are_asked_for(tmp_path, monkeypatch):
    """A file with runs of three epochs and of one was once shown as one table."""

    def measured(tasks, num_jobs):
        for task in tasks:
            top1 = 0.3 * task.config.epochs + 0.01 * task.seed
            figures = {"linear_top1": top1, "knn_top1": top1, "steps": task.config.epochs}
            yield record_of(task, **figures, train_cpu_s=60.0, train_wall_s=60.0)

    monkeypatch.setattr(runs, "measure_all", measured)
    for epochs in (3, 1):
        accuracy(epochs=epochs, seeds=2, json=tmp_path / "found.jsonl")
    table = (tmp_path / "found.md").read_text()
    assert "| GIM | 30.50 | 30.50 |" in table
    assert f"{2 * len(DIGITS.methods)} CPU minutes" in table
    assert "* bits: seed 0 amx; seed 1 amx" in table
