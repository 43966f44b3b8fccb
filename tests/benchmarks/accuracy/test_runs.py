"""The accuracy benchmark's runs: like is trained beside like, and a file is resumed."""

import dataclasses
import math
import tomllib

from benchmarks.accuracy.runs import LAGS, METHODS, find_missing, make_tasks, measure_all
from benchmarks.harness import Results
from launch.config import DEFAULT_LAG, RunConfig
from launch.config_file import to_toml

TINY = {"data": "synthetic:1x8x8x64", "split": 0, "model": "mlp", "batch_size": 16, "steps": 2}


def test_lags_for_the_picture_are_none_of_the_tables():
    tasks = make_tasks(2, methods=LAGS)
    assert not LAGS.keys() & METHODS.keys()
    found = sorted({(task.config.tie, task.config.lag) for task in tasks})
    assert found == [
        ("elastic", 0),
        ("elastic", 2),
        ("elastic", 8),
        ("gradient", 2),
        ("gradient", 8),
    ]


def test_five_seeds_hold_out_each_split_once():
    tasks = make_tasks(5)
    assert len(tasks) == 5 * len(METHODS)
    assert {(task.method, task.config.split) for task in tasks} == {
        (method, split) for method in METHODS for split in range(5)
    }


def test_methods_differ_in_the_rule_only():
    rule = {"method": "local", "overlap": 1, "tie": "none", "lag": 0}
    configs = [dataclasses.replace(task.config, **rule) for task in make_tasks(1)]
    assert len(configs) == len(METHODS)
    assert all(config == configs[0] for config in configs)


def test_main_jobs_default_is_among_the_methods():
    default = RunConfig(device="cpu", threads=1, lag=DEFAULT_LAG)
    assert default in [task.config for task in make_tasks(1)]


# Runs -------------------------------------------------------------------------------------------


def test_every_method_trains_and_is_measured():
    """In another process, which then measures the first again: what a run leaves is no matter."""
    tasks = make_tasks(1, **TINY)
    *records, again = measure_all([*tasks, tasks[0]], 1)
    assert sorted(record["method"] for record in records) == sorted(METHODS)
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
    tasks = make_tasks(2, **TINY)
    results = Results(tmp_path / "a.jsonl")
    results.append({"header": {}})
    results.append({"method": "end-to-end", "seed": 0, "config": to_toml(tasks[0].config)})
    assert find_missing(tasks, results) == tasks[1:]

    longer = make_tasks(2, **(TINY | {"steps": 3}))
    assert find_missing(longer, results) == longer
