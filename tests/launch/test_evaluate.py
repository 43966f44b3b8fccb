"""A finished run is measured from its directory; that its end's figures are repeated is
test_pipeline's."""

import errno
import json
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from launch import evaluate as program
from launch.config_file import to_toml
from launch.evaluate import main
from models.network import build_plain
from models.plugins import UsersError
from models.registry import ImageShape, load_network
from runtime.program import REFUSED
from runtime.records.schema import Evaluation, from_dict

from ..models.datasets import layouts
from .runs import light

TRAINED_ON = "synthetic:1x8x8x64"
OTHER = "synthetic:1x8x8x48"


@pytest.fixture
def run(tmp_path) -> Path:
    """The directory of a run, with its config and no weights."""
    config = light(data=TRAINED_ON, workers=2, batch_size=8, steps=2).config
    (tmp_path / "config.toml").write_text(to_toml(config))
    return tmp_path


def save_weights(run: Path, image_shape: ImageShape = (1, 8, 8)) -> None:
    network = load_network("mlp", image_shape, seed=0)
    weights = build_plain(network, seed=0).state_dict()
    safetensors.torch.save_file(weights, run / "weights.safetensors")


@pytest.fixture
def finished(run) -> Path:
    save_weights(run)
    return run


def refusal(capsys, *argv: object) -> str:
    assert main([str(argument) for argument in argv]) == REFUSED
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("evaluate: error: ")
    return printed.err


def records(run: Path, *argv: str) -> list[Evaluation]:
    path = run / "figures.json"
    assert main([str(run), *argv, "--json", str(path)]) == 0
    return [from_dict(Evaluation, values) for values in json.loads(path.read_text())]


# What is measured ------------------------------------------------------------------------------


def test_table_says_what_was_measured_on_what(finished, capsys):
    assert main([str(finished), "--linear", "none", "--units", "units"]) == 0
    printed = capsys.readouterr().out
    assert f"{TRAINED_ON}: 64 training and 16 test images of 10 classes" in printed
    assert "features: standardised; linear: none; kNN: k 20, temperature 0.07" in printed
    (heading,) = re.findall(r"^unit +block.*$", printed, re.MULTILINE)
    assert re.split(r"  +", heading.strip())[1:3] == ["block", "features"]
    rows = [line.split() for line in printed.partition(heading)[2].splitlines() if line.strip()]
    assert len(rows) == 4
    assert [row[1] for row in rows] == ["–", "0", "–", "1"]
    assert all(row[3] == "–" and 0 <= float(row[4]) <= 1 for row in rows)


def test_what_is_odd_about_other_data_is_told(finished, tmp_path, capsys):
    layouts.write_cifar10(tmp_path / "images")
    data = f"cifar10:{tmp_path / 'images'}"
    save_weights(finished, (3, 32, 32))
    assert main([str(finished), "--data", data, "--linear", "none", "--units", "last"]) == 0
    assert "note: 6 of 6 files in" in capsys.readouterr().out


def test_records_hold_all_that_they_were_measured_by(finished):
    lower, upper = records(finished, "--units", "blocks", "--k", "5", "--temperature", "0.1")
    assert (lower.block, upper.block) == (0, 1)
    assert lower.unit != upper.unit
    assert upper.run == str(finished)
    assert re.fullmatch("[0-9a-f]{64}", upper.weights_sha256)
    assert (upper.data, upper.split, upper.seed) == (TRAINED_ON, 0, 0)
    assert (upper.num_train, upper.num_test, upper.num_classes) == (64, 16, 10)
    assert upper.protocol == {
        "features": "standardised",
        "linear": "logistic",
        "epochs": 90,
        "k": 5,
        "temperature": 0.1,
    }
    assert upper.num_features > 0
    assert 0 <= upper.linear_top1 <= 1
    assert 0 <= upper.knn_top1 <= 1


def test_no_more_neighbours_are_recorded_than_there_are(finished, capsys):
    """`--k 200` on 64 images voted with 64, while the records and the table said 200."""
    (found,) = records(finished, "--units", "last", "--linear", "none", "--k", "200")
    assert found.protocol["k"] == found.num_train == 64
    printed = capsys.readouterr().out
    assert "kNN: k 64, temperature 0.07" in printed
    assert "finding each test image's 64 nearest for 1 units" in printed
    assert "note: k 200, but only 64 training images have a label; all of them vote\n" in printed
    (same,) = records(finished, "--units", "last", "--linear", "none", "--k", "64")
    assert same == found
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("linear", ["logistic", "sgd", "none"])
def test_each_linear_classifier_can_be_asked_for(finished, linear):
    (record,) = records(finished, "--units", "last", "--linear", linear, "--epochs", "3")
    assert record.protocol["linear"] == linear
    assert (record.linear_top1 is None) == (linear == "none")


def test_other_data_are_measured_without_those_of_the_run(finished):
    """The weights are enough: what the run was trained on may be gone."""
    config = finished / "config.toml"
    config.write_text(config.read_text().replace(TRAINED_ON, "gone.py:load"))
    record = records(finished, "--data", OTHER)[-1]
    assert (record.data, record.num_train, record.num_test) == (OTHER, 48, 12)
    assert "gone.py" in config.read_text()


def test_split_is_that_of_the_runs_data_alone(run):
    config = light(data="digits", split=2, workers=2, batch_size=8, steps=2).config
    (run / "config.toml").write_text(to_toml(config))
    save_weights(run, (1, 16, 16))
    flags = ("--linear", "none", "--units", "last")
    (own,), (other,) = records(run, *flags), records(run, *flags, "--data", "synthetic:1x16x16x40")
    assert (own.split, own.num_train) == (2, 1438)
    assert (other.split, other.num_train) == (0, 40)


def test_runs_own_data_are_known_by_another_path(run, tmp_path, monkeypatch, capsys):
    """They were measured without what was held out for validation, and so on what was trained."""
    layouts.write_folder(tmp_path / "images", shape=(8, 8))
    monkeypatch.chdir(tmp_path)
    settings = {"data": "folder:images", "validation": 0.4, "batch_size": 2, "steps": 2}
    config = light(**settings, workers=2).config
    (run / "config.toml").write_text(to_toml(config))
    save_weights(run)
    flags = ("--linear", "none", "--units", "last")
    for name in ("images", "./images", "images/", tmp_path / "images"):
        (own,) = records(run, *flags, "--data", f"folder:{name}")
        assert (own.num_train, own.num_test, own.validation) == (4, 2, 0.4)
        assert "4 training and 2 held-out training images" in capsys.readouterr().out
    (other,) = records(run, *flags, "--data", OTHER)
    assert (other.num_test, other.validation) == (12, 0.0)
    assert "48 training and 12 test images" in capsys.readouterr().out


def test_other_data_may_have_other_classes(finished, tmp_path, monkeypatch):
    (tmp_path / "two.py").write_text(
        "import torch\n"
        "def load():\n"
        "    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 2\n"
        "    return images[:30], labels[:30], images[30:], labels[30:]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert records(finished, "--data", "two.py:load")[-1].num_classes == 2


def test_run_trained_end_to_end_has_one_block(finished):
    config = light(data=TRAINED_ON, method="e2e", batch_size=8, steps=2).config
    (finished / "config.toml").write_text(to_toml(config))
    assert [record.block for record in records(finished, "--units", "blocks")] == [0]
    assert [record.block for record in records(finished)] == [None, None, None, 0]


def test_phase_is_shown_once(finished, capsys):
    assert main([str(finished), "--units", "last"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("computing the features") == 1
    assert printed.count("evaluating unit") == 1


# What ends it ----------------------------------------------------------------------------------


def test_directory_without_a_config_is_refused(capsys, tmp_path):
    assert refusal(capsys, tmp_path) == (
        f"evaluate: error: '{tmp_path}' holds no config.toml; give the directory of a run\n"
    )


def test_run_without_weights_is_refused(capsys, run):
    assert refusal(capsys, run) == (
        f"evaluate: error: '{run}' has no weights.safetensors; give a finished run\n"
    )


@pytest.mark.parametrize("name", ["config.toml", "weights.safetensors"])
def test_run_that_may_not_be_looked_into_is_refused(capsys, finished, monkeypatch, name):
    """A run directory is its owner's alone, and another's evaluation of it was a traceback."""
    stat = os.stat

    def refuse(path, *more, **how):
        if os.path.basename(path) == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *more, **how)

    monkeypatch.setattr(os, "stat", refuse)
    assert refusal(capsys, finished) == (
        f"evaluate: error: {finished / name} can't be read: permission denied; check it and its"
        " permissions\n"
    )


def test_weights_that_may_not_be_opened_are_refused(capsys, finished, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    assert "weights.safetensors can't be read: permission denied" in refusal(capsys, finished)


def test_config_that_no_run_has_written_is_refused(capsys, finished):
    (finished / "config.toml").write_text("workers = 2\n")
    assert "is none that a run has written; give another run" in refusal(capsys, finished)


def test_weights_that_can_not_be_read_are_refused(capsys, run):
    (run / "weights.safetensors").write_bytes(b"torn")
    assert "weights.safetensors' can't be read" in refusal(capsys, run)


def test_weights_of_another_network_are_refused(capsys, run):
    safetensors.torch.save_file({"x": torch.ones(2)}, run / "weights.safetensors")
    assert "these are not the weights of network 'mlp'" in refusal(capsys, run)


def test_data_whose_images_do_not_fit_are_refused(capsys, finished, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    told = refusal(capsys, finished, "--data", "synthetic:3x8x8x32")
    assert "data 'synthetic:3x8x8x32', with images of 3x8x8: " in told
    assert "size mismatch" in told


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--k", "0"], "k 0 is not allowed; give at least 1"),
        (["--k", "1.5"], "'1.5' is not a whole number"),
        (["--temperature", "-1"], "temperature -1.0 is not allowed"),
        (["--epochs", "0"], "epochs 0 is not allowed"),
        (["--linear", "svm"], "svm"),
        (["--units", "some"], "some"),
        (["--features", "white"], "white"),
        (["--data", "digit"], "did you mean 'digits'?"),
        (["--data", "cifar10:~nosuch/x"], "home directory that is not known here"),
        (["--data", "~nosuch/own.py:data"], "home directory that is not known here"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--json", "nowhere/figures.json"], "no such directory"),
        (["--json", "."], "is a directory; give a file"),
        (["--json", "x" * 300], "file name too long"),
    ],
)
def test_flag_that_can_not_be_is_refused_at_once(capsys, finished, argv, told):
    assert told in refusal(capsys, finished, *argv)


def test_run_must_be_given(capsys):
    assert "RUN" in refusal(capsys)


def test_figures_that_can_not_be_written_are_shown(finished, capsys, monkeypatch):
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("launch.evaluation.write_durably", full)
    flags = ["--units", "last", "--json", str(finished / "figures.json")]
    assert main([str(finished), *flags]) == 1
    printed = capsys.readouterr()
    assert "kNN top-1 (test)" in printed.out
    assert "figures.json can't be written: No space left on device" in printed.err


def test_users_unit_that_raises_keeps_its_traceback(run, tmp_path):
    """One line said what it raised, and not where."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Trains(nn.Flatten):\n"
        "    def forward(self, x):\n"
        "        assert self.training, 'not made for that'\n"
        "        return super().forward(x)\n"
        "def build():\n"
        "    return nn.Sequential(Trains(), nn.Linear(64, 4))\n"
    )
    settings = {"data": TRAINED_ON, "workers": 2, "batch_size": 8, "steps": 2}
    config = light(**settings, model=f"{tmp_path}/net.py:build").config
    (run / "config.toml").write_text(to_toml(config))
    network = load_network(config.model, (1, 8, 8), seed=0)
    weights = build_plain(network, seed=0).state_dict()
    safetensors.torch.save_file(weights, run / "weights.safetensors")
    with pytest.raises(UsersError, match="not made for that") as caught:
        main([str(run)])
    assert caught.value.__notes__ == [f"note: on data {TRAINED_ON!r}, with images of 1x8x8"]


def test_interrupt_ends_it_with_130(finished, capsys, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "measure", interrupted)
    assert main([str(finished)]) == 130
    assert capsys.readouterr().err == "evaluate: stopped by SIGINT\n"


def test_run_that_was_extended_and_has_not_ended_is_refused(finished, capsys):
    """Its weights are those of the shorter run, and its config is that of the longer one."""
    (finished / "summary.json").write_text(json.dumps({"steps": 1}))
    message = refusal(capsys, finished)
    assert "was extended from 1 to 2 steps and has not ended" in message


def test_records_go_where_a_link_leads_and_into_what_is_no_file(finished, tmp_path):
    """--json /dev/full replaced the device by a file."""
    target, link, pipe = tmp_path / "target.json", tmp_path / "link.json", tmp_path / "pipe"
    link.symlink_to(target)
    flags = ["--linear", "none", "--data", OTHER]
    assert main([str(finished), *flags, "--json", str(link)]) == 0
    assert link.is_symlink()
    assert len(json.loads(target.read_text())) > 0
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main([str(finished), *flags, "--json", str(pipe)]) == 0
    assert pipe.is_fifo()
    assert json.loads(os.read(reader, 1 << 20)) == json.loads(target.read_text())
    os.close(reader)
