"""The accuracy benchmark's runs: like is trained beside like, and a file is resumed."""

import dataclasses
import math
import tomllib

import pytest

from benchmarks.accuracy import runs
from benchmarks.accuracy.regimes import CIFAR10, DIGITS, REGIMES
from benchmarks.accuracy.runs import accuracy, find_missing, make_tasks, measure_all, tasks_of
from benchmarks.harness import Results
from launch.config import DEFAULT_LAG, RunConfig

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


def test_resumed_file_lacks_only_what_it_does_not_hold(tmp_path):
    tasks = of_digits(2, **TINY)
    results = Results(tmp_path / "a.jsonl")
    results.append({"method": "end-to-end", "seed": 0, "config": tasks[0].config_toml})
    assert find_missing(tasks, results) == tasks[1:]

    longer = of_digits(2, **(TINY | {"steps": 3}))
    assert find_missing(longer, results) == longer


def test_only_searched_settings_hold_a_part_of_the_training_images_out():
    """With a seed that no comparison has."""
    found = tasks_of(CIFAR10, range(3))
    assert {task.config.validation for task in found["searched"]} == {0.1}
    assert {task.config.validation for task in found["compared"] + found["explored"]} == {0}
    seeds = {what: {task.seed for task in tasks} for what, tasks in found.items()}
    assert seeds == {"compared": {0, 1, 2}, "explored": {0}, "searched": {100}}


def test_table_is_of_the_runs_that_are_asked_for(tmp_path, monkeypatch):
    """A file with runs of three epochs and of one was once shown as one table."""

    def measured(tasks, num_jobs):
        for task in tasks:
            top1 = 0.3 * task.config.epochs + 0.01 * task.seed
            record = {"method": task.method, "seed": task.seed, "config": task.config_toml}
            figures = {"linear_top1": top1, "knn_top1": top1, "steps": task.config.epochs}
            yield record | figures | {"train_cpu_s": 60.0, "train_wall_s": 60.0}

    monkeypatch.setattr(runs, "measure_all", measured)
    for epochs in (3, 1):
        accuracy(epochs=epochs, seeds=2, json=tmp_path / "found.jsonl")
    table = (tmp_path / "found.md").read_text()
    assert "| GIM | 30.50 | 30.50 |" in table
    assert f"{2 * len(DIGITS.methods)} CPU minutes" in table
