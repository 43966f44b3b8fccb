"""The run directory: who may have it, and what is left in it whatever happens."""

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import runtime.records.run_dir as module
from runtime.records.run_dir import RunDir, worker_log


def create(path: Path | None, **options: Any) -> RunDir:
    return RunDir.create(path, name="resnet-small", **options)


def test_directory_is_new_for_each_run_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [RunDir.create(None, name="my.net:build") for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    for run in runs:
        assert run.path.parent == Path("runs")
        assert "my.net-build" in run.path.name
        run.close()


def test_run_dir_has_its_paths(tmp_path):
    run = create(tmp_path / "deep" / "run")
    paths = [run.config_toml, run.metrics, run.weights, run.summary, run.tensorboard]
    names = [
        str(path.relative_to(run.path)) for path in (*paths, run.logs, worker_log(run.path, 3))
    ]
    assert names == [
        "config.toml",
        "metrics.jsonl",
        "weights.safetensors",
        "summary.json",
        "tensorboard",
        "logs",
        "logs/worker-3.log",
    ]
    assert run.logs.is_dir()
    run.close()


def test_directory_cannot_be_shared_by_two_jobs(tmp_path):
    first = create(tmp_path / "run")
    with pytest.raises(ValueError, match="in use") as caught:
        create(tmp_path / "run", restart=True)
    assert str(caught.value) == (
        f"run directory '{tmp_path}/run' is in use by process {os.getpid()}"
        f" of host {socket.gethostname()}; "
        "wait for it to end, or give another by --run-dir"
    )
    first.close()
    create(tmp_path / "run").close()


def test_directory_that_becomes_free_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module.socket, "gethostname", lambda: "the host that has died")
    first = create(tmp_path / "run")
    monkeypatch.setattr(module.socket, "gethostname", lambda: "this host")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: first.close())
    create(tmp_path / "run", patience_s=90.0).close()


def test_directory_of_a_job_that_lives_on_this_host_is_refused_at_once(tmp_path, monkeypatch):
    first = create(tmp_path / "run")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(ValueError, match="in use"):
        create(tmp_path / "run", patience_s=90.0)
    first.close()


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl"])
def test_directory_with_a_run_is_only_for_a_restart(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="already holds a run") as caught:
        create(tmp_path)
    assert str(caught.value) == (
        f"run directory '{tmp_path}' already holds a run; give another by --run-dir, "
        "or --fresh to start over in it"
    )
    create(tmp_path, restart=True).close()


def test_directory_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    for path in (tmp_path / "runs" / "mine", None):
        with pytest.raises(ValueError, match=r"can't be written \(.*\); give another by --run-dir"):
            create(path)


def test_metrics_can_be_followed_line_by_line(tmp_path):
    run = create(tmp_path)
    assert not run.metrics.exists()
    run.append_metrics([{"step": 1, "loss": 4.5}, {"step": 2, "loss": float("nan")}])
    lines = run.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 4.5},
        {"step": 2, "loss": None},
    ]
    run.close()

    again = create(tmp_path, restart=True)
    again.append_metrics([{"step": 3}])
    assert len(run.metrics.read_text().splitlines()) == 3
    again.close()


def test_half_an_event_is_none(tmp_path):
    """A disk that was full in the midst of a line ended the job behind its last step."""
    run = create(tmp_path)
    run.append_metrics([{"step": 1}, {"event": "restart", "block": 2}])
    with run.metrics.open("a") as file:
        file.write('{"event": "resta')
    assert run.events() == [{"event": "restart", "block": 2}]
    run.close()


def test_file_that_a_run_was_killed_over_does_not_stay(tmp_path):
    """A second file of the weights' size stayed for ever, after --fresh too."""
    half, mine = tmp_path / ".weights.safetensors.0a1b.tmp", tmp_path / ".mine.tmp"
    half.touch()
    mine.touch()
    create(tmp_path).close()
    assert (half.exists(), mine.exists()) == (False, True)


def test_config_and_summary_are_replaced_as_one(tmp_path):
    run = create(tmp_path)
    run.write_config("lag = 1\n", given="lag = 1\n")
    run.write_summary({"steps": 1})
    run.write_summary({"steps": 2, "blocks": [{"loss": float("inf"), "sizes": (1, 2)}]})
    assert run.config_toml.read_text() == "lag = 1\n"
    summary = json.loads(run.summary.read_text())
    assert summary == {"steps": 2, "blocks": [{"loss": None, "sizes": [1, 2]}]}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".lock", "config.toml", "given.toml", "logs", "summary.json"]
    run.close()


def test_summary_that_fails_leaves_the_old_one(tmp_path):
    run = create(tmp_path)
    run.write_summary({"steps": 1})
    with pytest.raises(TypeError):
        run.write_summary({"steps": object()})
    assert json.loads(run.summary.read_text()) == {"steps": 1}
    run.close()


def test_cleared_run_is_gone_and_its_directory_still_taken(tmp_path):
    run = create(tmp_path)
    run.write_config("lag = 1\n", given="lag = 1\n")
    run.append_metrics([{"step": 1}])
    part = tmp_path / "checkpoints" / "00000012-ab" / "part-0000.safetensors"
    part.parent.mkdir(parents=True)
    part.touch()
    run.clear()
    assert not run.holds_run
    assert [path for path in tmp_path.rglob("*") if path.name not in (".lock", "logs")] == []
    with pytest.raises(ValueError, match="in use"):
        create(tmp_path)
    run.close()
    create(tmp_path).close()


def test_run_that_is_deleted_in_part_is_a_run_still(tmp_path, monkeypatch):
    """Its config went first; then the next job took what checkpoints were left for newer ones than
    its own, and deleted its own."""
    run_dir = create(tmp_path)
    run_dir.write_config("lag = 1\n", given="lag = 1\n")
    run_dir.append_metrics([{"step": 1}])
    run_dir.checkpoints.mkdir()

    def busy(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr("shutil.rmtree", busy)
    with pytest.raises(ValueError, match="directory not empty"):
        run_dir.clear()
    assert (run_dir.config_toml.exists(), run_dir.metrics.exists()) == (True, True)
    run_dir.close()


def test_run_that_can_not_be_deleted_is_told_with_its_remedy(tmp_path, monkeypatch):
    """On NFS what another program has open stays: a traceback, and exit code 1."""
    run_dir = create(tmp_path)

    def busy(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr("shutil.rmtree", busy)
    with pytest.raises(ValueError, match=r"can't be written \(directory not empty\); give another"):
        run_dir.clear()
    run_dir.close()
