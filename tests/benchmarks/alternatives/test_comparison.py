"""The command of the comparison: what it measures, and what it does not measure again."""

import dataclasses
import math

import pytest

from benchmarks.alternatives import comparison
from benchmarks.alternatives.comparison import Options, main
from benchmarks.alternatives.systems import (
    ALONE,
    SCHEDULES,
    Learner,
    Rate,
    measure_rates,
    systems,
)
from benchmarks.harness import Results
from launch.config import ConfigError


@pytest.fixture
def no_processes(monkeypatch):
    """Systems that only say what they would be measured under."""
    seen = []

    def fake(name):
        def measure(task, conditions):
            seen.append((name, conditions))
            m = 4 if name.endswith(SCHEDULES) else 1
            learner = Learner(name=f"by {m} microbatches", microbatches=m)
            return Rate(samples_per_s=9.0, peak_rss_bytes=(1, 2), learner=learner)

        return measure

    monkeypatch.setattr(comparison, "systems", lambda: {name: fake(name) for name in systems()})
    return seen


def options(tmp_path, **changes) -> Options:
    small = {"model": "resnet18-cifar-w4", "batch_size": 16, "runs": 2, "test_images": 20}
    return Options(**small, train_images=32, epochs=1, json=tmp_path / "found.jsonl", **changes)


def test_systems_take_turns(no_processes, tmp_path):
    main(options(tmp_path, only="rates"))
    assert [name for name, _ in no_processes] == [*systems(), *systems()]
    assert {conditions.wan for _, conditions in no_processes} == {""}


def test_far_systems_go_through_a_proxy_and_one_process_does_not(no_processes, tmp_path):
    main(options(tmp_path, only="rates", wan_rtt_ms=50))
    assert ALONE not in [name for name, _ in no_processes]
    assert all(conditions.wan for _, conditions in no_processes)
    records = Results(tmp_path / "found.jsonl").read()
    assert {record["link"] for record in records} == {"round trip 50 ms, 100 Mbit/s"}


def test_curve_of_each_learner_is_measured_once(no_processes, tmp_path):
    main(options(tmp_path))
    main(options(tmp_path, only="curves"))
    records = Results(tmp_path / "found.jsonl").read()
    learners = [record["learner"] for record in records if "points" in record]
    assert sorted(learners) == ["by 1 microbatches", "by 4 microbatches"]


def test_curve_of_other_code_is_measured_again(no_processes, tmp_path, monkeypatch, capsys):
    main(options(tmp_path))
    facts = comparison.header() | {"commit": "another"}
    monkeypatch.setattr(comparison, "header", lambda: facts)
    main(options(tmp_path, only="curves"))
    records = Results(tmp_path / "found.jsonl").read()
    learners = [record["learner"] for record in records if "points" in record]
    assert len(learners) == 2 * len(set(learners))
    assert capsys.readouterr().out.count("curves by\n  commit  another") == 1


def test_records_say_in_how_many_steps(no_processes, tmp_path, capsys):
    main(options(tmp_path, only="rates", steps=7))
    records = Results(tmp_path / "found.jsonl").read()
    assert {record["steps"] for record in records} == {7}
    assert "one machine, 7 steps" in capsys.readouterr().out


def test_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="batch size 20 is not a multiple of 8"):
        Options(batch_size=20)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"runs": 0}, "runs 0; give at least 1"),
        ({"every": 0}, "every 0; give at least 1"),
        ({"steps": 1}, "steps 1; give at least 5"),
        ({"test_images": 0}, "test-images 0; give at least 1"),
        ({"batch_size": 0}, "batch-size 0; give at least 1"),
        ({"wan_rtt_ms": -1}, "wan-rtt-ms -1; give 0 or more"),
        ({"wan_rtt_ms": 50, "wan_mbit": math.nan}, "wan-mbit nan; give a figure above 0"),
    ],
)
def test_wrong_figure_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Options(**wrong)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"lr": math.nan}, "lr nan is not allowed"),
        ({"epochs": 0}, "epochs 0 is not allowed"),
        ({"model": "resnet81"}, "no model named 'resnet81'"),
        ({"data": "cifar10:/nowhere"}, "data 'cifar10:/nowhere'"),
    ],
)
def test_what_no_run_could_start_with_is_refused_before_any(no_processes, tmp_path, wrong, told):
    with pytest.raises(ConfigError, match=told):
        main(dataclasses.replace(options(tmp_path), **wrong))
    assert not no_processes


def test_records_do_not_hold_the_path_of_the_data(tmp_path):
    task = Options(data=f"cifar10:{tmp_path}").task
    assert f"cifar10:{tmp_path}" in task.flags
    assert "--data cifar10 --batch-size" in task.settings
    assert "--data synthetic:1x8x8" in Options(data="synthetic:1x8x8").task.settings


def test_best_number_of_microbatches_is_sought_once_a_link(task, monkeypatch):
    from benchmarks.alternatives import systems as module
    from benchmarks.lock_step.processes import LockStepTiming

    sought = []

    def best(work, *, wan, schedules):
        sought.append(wan)
        return dict.fromkeys(schedules, 2), {}

    def run(cases, *, wan=""):
        timing = {"batches_per_s": 2.0, "loss": None, "slept_s": (), "peak_rss_bytes": (1, 2)}
        return [LockStepTiming(**timing) for _ in cases]

    work = module.real_work(task.flags, workers=2, steps=1, heads="top")
    monkeypatch.setattr(module, "real_work", lambda flags, **how: work)
    monkeypatch.setattr(module, "best_microbatches", best)
    monkeypatch.setattr(module, "run_lock_step", run)
    own = {name: measure for name, measure in systems().items() if name.endswith(SCHEDULES)}
    for wan in ("", "", "127.0.0.1:1"):
        records = list(measure_rates(own, task, module.Conditions(steps=3, wan=wan)))
        assert [record["learner"]["microbatches"] for record in records] == [2, 2]
        assert [record["samples_per_s"] for record in records] == [32.0, 32.0]
    assert sought == ["", "127.0.0.1:1"]


def test_pipeline_is_cut_once_and_says_so(task, monkeypatch):
    from benchmarks.alternatives import systems as module

    commands = []

    def run(command, run_dir):
        commands.append(command)
        return {"samples_per_s": 3.0, "blocks": [{"peak_rss_bytes": 5}]}

    monkeypatch.setattr(module, "run_once", run)
    gim = module.Pipeline("GIM", *module.GIM)
    near, far = (gim(task, module.Conditions(steps=2, wan=wan)) for wan in ("", "127.0.0.1:1"))
    assert near.learner == far.learner
    cuts = near.learner.flags[-1]
    assert near.learner.name == f"GIM, cuts {cuts}"
    for command in commands:
        assert command[command.index("--cuts") + 1] == cuts
    assert commands[0][1].endswith("launch/pipeline.py")
    assert "benchmarks.wan.pipeline_far" in commands[1]
    assert commands[1][commands[1].index("--link") + 1] == "zmq-tcp"
