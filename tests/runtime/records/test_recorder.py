"""What a run leaves behind: one writer for both programs, which no full disk and no tie stops."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import Tensor

from runtime.coordinator.live_view import make_console
from runtime.program import unheard
from runtime.records import recorder as module
from runtime.records.recorder import NotWritten, Recorder
from runtime.records.run_dir import RunDir
from runtime.records.schema import UnitAccuracy
from runtime.state.checkpoint import CheckpointWriter
from runtime.state.object_store import ObjectStore
from runtime.state.storage import LocalStorage, write_durably

WEIGHTS = {"in.weight": torch.arange(6.0).view(2, 3)}


@pytest.fixture
def recorder(tmp_path):
    run_dir = RunDir.create(tmp_path / "exp[lr=0.1]", name="")
    recorder = Recorder(run_dir)
    yield recorder
    recorder.close()


def write(recorder: Recorder, weights: Mapping[str, Tensor] = WEIGHTS) -> None:
    recorder.write_weights(weights, console=make_console(), tell=unheard)


def checkpoints(recorder: Recorder) -> Path:
    return recorder.run_dir.path / "checkpoints"


def write_checkpoints(recorder: Recorder, *steps: int) -> None:
    storage = LocalStorage(checkpoints(recorder))
    writer = CheckpointWriter(
        storage=storage, run_id="0" * 16, num_parts=1, config_toml="lag = 1\n"
    )
    for step in steps:
        writer.write_part(0, step, b"state")


@pytest.fixture
def disk(monkeypatch) -> SimpleNamespace:
    """A disk for so many checkpoints, beside which the weights find room."""
    disk = SimpleNamespace(most_checkpoints=2)

    def write(path: Path, content: bytes) -> None:
        if len(list((path.parent / "checkpoints").iterdir())) > disk.most_checkpoints:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_durably(path, content)

    monkeypatch.setattr(module, "write_durably", write)
    return disk


def test_tied_weights_are_written_under_each_name(recorder):
    """One weight under two names: the pipeline wrote it, the sequential program lost the run after
    training ("share memory")."""
    tied = WEIGHTS["in.weight"]
    write(recorder, {"in.weight": tied, "out.weight": tied, "top.weight": tied.T})
    found = safetensors.torch.load_file(recorder.run_dir.weights)
    assert torch.equal(found["in.weight"], found["out.weight"])
    assert torch.equal(found["top.weight"], tied.T)


def test_older_checkpoints_make_room_for_the_weights(recorder, disk):
    write_checkpoints(recorder, 12, 24)
    disk.most_checkpoints = 1
    write(recorder)
    assert [path.name[:8] for path in checkpoints(recorder).iterdir()] == ["00000024"]
    assert recorder.run_dir.weights.exists()


def test_newest_checkpoint_stays_if_weights_have_no_room(recorder, disk):
    """The weights were lost: four coordinators, exit 1, and no message of the
    checkpoint."""
    write_checkpoints(recorder, 12, 24)
    disk.most_checkpoints = 0
    with pytest.raises(NotWritten, match=r"No space left on device.*is in the checkpoints \("):
        write(recorder)
    assert [path.name[:8] for path in checkpoints(recorder).iterdir()] == ["00000024"]


def test_checkpoints_elsewhere_make_no_room_for_the_weights(tmp_path, disk):
    """To delete them there would help no one here."""
    run_dir = RunDir.create(tmp_path / "run", name="")
    (run_dir.checkpoints / "in-the-way").mkdir(parents=True)
    storage = ObjectStore("memory://test/no-room")
    writer = CheckpointWriter(storage=storage, run_id="0" * 16, num_parts=1, config_toml="")
    for step in (12, 24):
        writer.write_part(0, step, b"state")
    disk.most_checkpoints = 0
    recorder = Recorder(run_dir, storage)
    with pytest.raises(NotWritten, match=r"is in the checkpoints \(memory://test/no-room\)"):
        write(recorder)
    recorder.close()
    assert sorted(name[:8] for name in storage.names()) == ["00000012", "00000024"]


def test_room_is_awaited_if_there_is_no_checkpoint(recorder, disk, monkeypatch, capsys):
    """ "What was learned is in the checkpoints there", it said, and there was none."""
    checkpoints(recorder).mkdir()
    (checkpoints(recorder) / "in-the-way").touch()
    disk.most_checkpoints = 0
    clock = SimpleNamespace(now_s=100.0)

    def sleep(seconds: float) -> None:
        clock.now_s += seconds
        if clock.now_s > 150.0:
            (checkpoints(recorder) / "in-the-way").unlink(missing_ok=True)

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now_s, sleep=sleep))
    write(recorder)
    assert recorder.run_dir.weights.exists()
    assert "waiting for room, 600 s at most" in capsys.readouterr().out
    disk.most_checkpoints = -1
    with pytest.raises(NotWritten, match="no checkpoint either, and what was learned is lost"):
        write(recorder)


def test_records_that_are_lost_are_told_once_and_end_nothing(recorder, monkeypatch, capsys):
    def full(rows: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recorder.run_dir, "append_metrics", full)
    for _ in range(3):
        recorder.add([])
    assert capsys.readouterr().err == "records are lost: No space left on device\n"


def test_path_is_shown_as_the_user_gave_it(recorder, capsys):
    """A run directory 'exp[lr=0.1]' was shown as "exp": its name was read as markup."""
    console = make_console()
    console.print(f"run directory: {recorder.run_dir.path} [/bold] :smile:", soft_wrap=True)
    assert f"{recorder.run_dir.path} [/bold] :smile:\n" in capsys.readouterr().out


def test_evaluation_is_told_phase_by_phase(recorder, capsys):
    def evaluate(weights: object, tell) -> list[UnitAccuracy]:
        for _ in range(3):
            tell("computing the features")
        tell("unit a (1 of 1)", takes_s=7.0)
        return []

    job = SimpleNamespace(num_workers=0, quick_end=False, evaluate=evaluate)
    told: list[tuple[str, float]] = []

    def tell(phase: str, *, takes_s: float = 0.0) -> None:
        told.append((phase, takes_s))

    assert recorder._evaluate(job, WEIGHTS, make_console(), tell, "") == []
    assert told == [("evaluating: computing the features", 0.0)] * 3 + [
        ("evaluating: unit a (1 of 1)", 7.0)
    ]
    assert capsys.readouterr().out.splitlines() == ["computing the features", "unit a (1 of 1)"]


def test_evaluation_that_hung_is_not_tried_again(recorder, capsys):
    """A healthy run whose evaluation took long ended with exit code 1 and without a summary."""
    job = SimpleNamespace(
        num_workers=1,
        quick_end=False,
        evaluate=lambda *_: pytest.fail("again"),
        unit_names=lambda k: (["a"], []),
    )
    found = recorder._evaluate(job, WEIGHTS, make_console(), unheard, "it hung while evaluating")
    assert found == [UnitAccuracy(name="a")]
    assert "not evaluated: it hung while evaluating" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no labels [here]"), "no labels [here]"),
        (OSError(errno.ESTALE, "Stale file handle", "/data"), "Stale file handle: '/data'"),
    ],
)
def test_evaluation_that_can_not_be_costs_its_figures_alone(recorder, capsys, error, told):
    """Data that were gone by the end of a job ended it with a traceback, all but done."""

    def evaluate(weights: object, tell) -> list[UnitAccuracy]:
        raise error

    job = SimpleNamespace(
        num_workers=1, quick_end=False, evaluate=evaluate, unit_names=lambda k: (["a"], [])
    )
    found = recorder._evaluate(job, WEIGHTS, make_console(), unheard, "")
    assert found == [UnitAccuracy(name="a")]
    printed = capsys.readouterr().out
    assert printed.startswith("not evaluated: ")
    assert printed.endswith(f"{told}\n")
