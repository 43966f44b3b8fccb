"""What is no finished run is refused in a line; that figures are repeated is test_pipeline's."""

import pytest
import safetensors.torch
import torch

from launch.config_file import to_toml
from launch.evaluate import main
from runtime.program import REFUSED

from .runs import light


@pytest.fixture
def run(tmp_path):
    """The directory of a run, with its config and no weights."""
    config = light(data="synthetic:1x8x8x32", workers=2, batch_size=8, steps=2).config
    (tmp_path / "config.toml").write_text(to_toml(config))
    return tmp_path


def refusal(capsys, run) -> str:
    assert main([str(run)]) == REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_directory_without_a_config_is_refused(capsys, tmp_path):
    assert refusal(capsys, tmp_path) == (
        f"evaluate: error: '{tmp_path}' holds no config.toml; give the directory of a run\n"
    )


def test_run_without_weights_is_refused(capsys, run):
    assert refusal(capsys, run) == (
        f"evaluate: error: '{run}' has no weights.safetensors; give a finished run\n"
    )


def test_weights_that_can_not_be_read_are_refused(capsys, run):
    (run / "weights.safetensors").write_bytes(b"torn")
    assert refusal(capsys, run).startswith("evaluate: error: ")


def test_weights_of_another_network_are_refused(capsys, run):
    safetensors.torch.save_file({"x": torch.ones(2)}, run / "weights.safetensors")
    assert main([str(run)]) == REFUSED
    assert capsys.readouterr().err.startswith("evaluate: error: ")
