"""What a run leaves behind: one writer for both programs, which no full disk and no tie stops."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from runtime.coordinator.live_view import make_console
from runtime.program import unheard
from runtime.records import recorder as module
from runtime.records.recorder import NotWritten, Recorder
from runtime.records.run_dir import RunDir
from runtime.state.checkpoint import CheckpointWriter, write_durably

WEIGHTS = {"in.weight": torch.arange(6.0).view(2, 3)}


@pytest.fixture
def recorder(tmp_path):
    run_dir = RunDir.create(tmp_path / "exp[lr=0.1]", name="")
    recorder = Recorder(run_dir)
    yield recorder
    recorder.close()


def checkpoints(recorder: Recorder) -> Path:
    return recorder.run_dir.path / "checkpoints"


def write_checkpoints(recorder: Recorder, *steps: int) -> None:
    recorder.run_dir.write_config("lag = 1\n")
    writer = CheckpointWriter(run_dir=recorder.run_dir.path, run_id="0" * 16, num_parts=1)
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
    recorder.write_weights({"in.weight": tied, "out.weight": tied, "top.weight": tied.T})
    found = safetensors.torch.load_file(recorder.run_dir.weights)
    assert torch.equal(found["in.weight"], found["out.weight"])
    assert torch.equal(found["top.weight"], tied.T)


def test_older_checkpoints_make_room_for_the_weights(recorder, disk):
    write_checkpoints(recorder, 12, 24)
    disk.most_checkpoints = 1
    recorder.write_weights(WEIGHTS)
    assert [path.name[:8] for path in checkpoints(recorder).iterdir()] == ["00000024"]
    assert recorder.run_dir.weights.exists()


def test_without_room_beside_the_newest_checkpoint_that_stays_and_it_is_said(recorder, disk):
    """The weights were lost: four coordinators, exit 1, and no word of the checkpoint."""
    write_checkpoints(recorder, 12, 24)
    disk.most_checkpoints = 0
    with pytest.raises(NotWritten, match=r"No space left on device.*is in the checkpoints there"):
        recorder.write_weights(WEIGHTS)
    assert [path.name[:8] for path in checkpoints(recorder).iterdir()] == ["00000024"]


def test_what_can_not_be_recorded_is_said_once_and_ends_nothing(recorder, monkeypatch, capsys):
    def full(rows: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recorder.run_dir, "append_metrics", full)
    for _ in range(3):
        recorder.add([])
    assert capsys.readouterr().err == "records are lost: No space left on device\n"


def test_a_user_sees_the_path_that_he_gave(recorder, capsys):
    """A run directory 'exp[lr=0.1]' was shown as "exp": its name was read as markup."""
    console = make_console()
    console.print(f"run directory: {recorder.run_dir.path} [/bold] :smile:", soft_wrap=True)
    assert f"{recorder.run_dir.path} [/bold] :smile:\n" in capsys.readouterr().out


def test_an_evaluation_is_told_phase_by_phase(recorder, capsys):
    def evaluate(weights: object, tell) -> list[dict[str, object]]:
        tell("evaluating unit a (1 of 1)")
        return []

    job = SimpleNamespace(num_workers=0, quick_end=False, evaluate=evaluate)
    phases: list[str] = []
    assert recorder._evaluate(job, WEIGHTS, make_console(), phases.append) == []
    assert phases == ["evaluating on the held-out split", "evaluating unit a (1 of 1)"]
    assert capsys.readouterr().out.splitlines() == phases


def test_an_evaluation_that_can_not_be_costs_its_figures_alone(recorder, capsys):
    def evaluate(weights: object, tell) -> list[dict[str, object]]:
        raise ValueError("no labels [here]")

    job = SimpleNamespace(
        num_workers=1, quick_end=False, evaluate=evaluate, unit_names=lambda k: (["a"], [])
    )
    found = recorder._evaluate(job, WEIGHTS, make_console(), unheard)
    assert found == [{"name": "a", "linear_top1": None, "knn_top1": None}]
    assert "not evaluated: no labels [here]" in capsys.readouterr().out
