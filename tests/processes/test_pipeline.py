"""The main job in real processes equals the sequential reference, whatever the timing.

This is also the test of launch/pipeline.py and sequential.py and, with test_recovery.py, of
runtime/worker/process.py.
"""

import sys
from dataclasses import asdict

import pytest
import safetensors.torch

from launch.config_file import parse
from launch.environment import Environment
from launch.evaluate import main as evaluate
from launch.job import LocalLearningJob
from launch.resolve import resolve
from models.network import build_plain
from runtime import digest

from .conftest import SMALL, Run, reference_digests, starting

DELAYED = """
import random, time
from torch import nn

class Dawdle(nn.Module):
    def forward(self, x):
        time.sleep(random.SystemRandom().random() * 0.02)
        return x

def build():
    widths = [256, 32, 32, 32, 32]
    return nn.Sequential(*[
        nn.Sequential(nn.Flatten(), Dawdle(), nn.Linear(a, b), nn.ReLU(inplace=True))
        for a, b in zip(widths, widths[1:])
    ])
"""


CELLS = {
    "exact LoCo, mlp": (*SMALL, "--workers", "2", "--tie", "gradient", "--lag", "0"),
    "late gradients over tcp, mlp": (
        *(*SMALL, "--workers", "4", "--tie", "gradient", "--lag", "3"),
        *("--link", "zmq-tcp", "--window", "4"),
    ),
    "the default's semantics, resnet": (
        *("--workers", "4", "--batch-size", "16", "--threads", "1", "--decoder-depth", "1,0,0,0"),
    ),
}


@pytest.mark.parametrize("name", sorted(CELLS))
def test_real_workers_end_as_the_sequential_reference_does(name, start):
    arguments = (*CELLS[name], "--steps", "7", "--seed", "3")
    run = start(*arguments, "--quick-end")
    code, out, err = run.end()
    assert code == 0, out + err
    expected = reference_digests(*arguments)
    assert {key: run.summary[key] for key in expected} == expected
    assert run.summary["batches"]["trained"] == 7 * run.summary["blocks"][-1]["index"] + 7


def test_random_delays_in_real_workers_change_nothing(start, tmp_path, monkeypatch):
    (tmp_path / "delayed.py").write_text(DELAYED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = ("--model", "delayed:build", "--workers", "4", "--threads", "1", "--steps", "20")
    arguments = (*arguments, "--batch-size", "16", "--decoder-depth", "0", "--lag", "2")
    run = start(*arguments, "--quick-end")
    code, out, err = run.end()
    assert code == 0, out + err
    expected = reference_digests(*arguments)
    assert {key: run.summary[key] for key in expected} == expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """A small run that has ended well."""
    with starting(tmp_path_factory.mktemp("finished")) as start:
        run = start(*SMALL, "--workers", "2", "--steps", "12")
        code, out, err = run.end()
        assert code == 0, out + err
        assert "share of the steady state" in out
        yield run


def test_every_step_of_every_worker_is_recorded(finished):
    for key in ("t", "block", "pid", "generation", "step", "loss", "probe_top1", "samples_per_s"):
        assert all(key in record for record in finished.metrics())
    assert {(record["block"], record["step"]) for record in finished.metrics()} == {
        (block, step) for block in (0, 1) for step in range(12)
    }
    assert len({record["pid"] for record in finished.metrics()}) == 2
    assert (finished.dir / "logs" / "worker-1.log").exists()
    assert list((finished.dir / "tensorboard").iterdir())


def test_weights_load_into_the_plain_network_and_evaluate_alike(finished):
    config = parse(["--config", str(finished.dir / "config.toml")], prog="test")
    machine = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)
    job = LocalLearningJob(resolve(config, environment=machine))
    weights = safetensors.torch.load_file(finished.dir / "weights.safetensors")
    build_plain(job.resolved.network, seed=99).load_state_dict(weights)
    assert digest.of_tensors(weights) == finished.summary["weights_sha256"]
    assert [asdict(unit) for unit in job.evaluate(weights)] == finished.summary["units"]


def test_config_of_a_run_repeats_it(finished, start):
    again = start("--config", str(finished.dir / "config.toml"), "--quick-end")
    assert again.end()[0] == 0
    assert again.summary["state_sha256"] == finished.summary["state_sha256"]


def test_sequential_program_leaves_the_same_run(finished, start):
    flags = ("--config", str(finished.dir / "config.toml"))
    sequential = start(*flags, script="sequential.py")
    code, out, err = sequential.end()
    assert code == 0, out + err
    for key in ("weights_sha256", "state_sha256", "units", "final", "steps", "batches"):
        assert sequential.summary[key] == finished.summary[key], key
    assert sequential.summary.keys() == finished.summary.keys()
    assert sequential.summary["blocks"][0].keys() == finished.summary["blocks"][0].keys()
    left = {path.name for path in finished.dir.iterdir()}
    assert {path.name for path in sequential.dir.iterdir()} == left - {"checkpoints"}


def test_evaluate_repeats_a_finished_run(finished, tmp_path, capsys):
    assert evaluate([str(finished.dir)]) == 0
    assert f"{finished.summary['units'][-1]['linear_top1']:.3f}" in capsys.readouterr().out
    assert evaluate([str(tmp_path / "nothing")]) == 2
    assert "holds no config.toml" in capsys.readouterr().err
