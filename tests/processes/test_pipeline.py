"""The main job in real processes equals the sequential reference, whatever the timing."""

import json

import pytest
import safetensors.torch
import torch

from launch.assembly import LocalLearningJob
from launch.config import parse
from launch.resolve import Environment, resolve
from models.network import build_plain
from models.sequential import train
from runtime import digest

from .conftest import SMALL

DELAYED = """
import random, time
from torch import nn

class Dawdle(nn.Module):
    def forward(self, x):
        time.sleep(random.SystemRandom().random() * 0.02)
        return x

def layer(width, out, dawdles):
    return nn.Sequential(nn.Flatten(), *[Dawdle()] * dawdles, nn.Linear(width, out), nn.ReLU())

def build():
    return nn.Sequential(*[layer(256 if i == 0 else 32, 32, 1) for i in range(4)])

def build_prompt():
    return nn.Sequential(*[layer(256 if i == 0 else 32, 32, 0) for i in range(4)])
"""


def reference_digests(*arguments: str) -> dict[str, str]:
    """What the sequential program, one process and one loop, ends with."""
    config = parse(arguments, prog="reference")
    machine = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)
    job = LocalLearningJob(resolve(config, environment=machine))
    torch.set_num_threads(job.threads)
    blocks = [job.build_block(k) for k in range(job.num_workers)]
    train(blocks, num_steps=job.num_steps, lag=config.lag)
    weights = {name: value for block in blocks for name, value in block.home_state().items()}
    states = [digest.block_records(k, block.state()) for k, block in enumerate(blocks)]
    return {
        "weights_sha256": digest.of_tensors(weights),
        "state_sha256": digest.combine(states),
    }


CELLS = {
    "exact LoCo, mlp": (*SMALL, "--workers", "2", "--tie", "gradient", "--lag", "0"),
    "late gradients over tcp, mlp": (
        *(*SMALL, "--workers", "4", "--tie", "gradient", "--lag", "3"),
        *("--link", "zmq-tcp", "--window", "4"),
    ),
    "Greedy InfoMax, mlp": (*SMALL, "--workers", "4", "--tie", "none", "--overlap", "0"),
    "one worker, mlp": (*SMALL, "--workers", "1"),
    "the default's semantics, resnet": (
        *("--workers", "4", "--batch-size", "16", "--threads", "1", "--decoder-depth", "1,0,0,0"),
    ),
}


@pytest.mark.parametrize("name", sorted(CELLS))
def test_real_workers_end_as_the_sequential_reference_does(name, start):
    arguments = (*CELLS[name], "--steps", "7", "--seed", "3")
    run = start(*arguments)
    code, out, err = run.end()
    assert code == 0, out + err
    expected = reference_digests(*arguments)
    assert {key: run.summary[key] for key in expected} == expected
    assert run.summary["batches"]["lost"] == 0
    assert run.summary["batches"]["trained"] == 7 * run.summary["blocks"][-1]["index"] + 7


def test_random_delays_in_real_workers_change_nothing(start, tmp_path):
    (tmp_path / "delayed.py").write_text(DELAYED)
    flags = ("--workers", "4", "--batch-size", "16", "--steps", "20", "--decoder-depth", "0")
    digests = []
    for build in ("build", "build", "build_prompt"):
        run = start("--model", f"delayed:{build}", *flags)
        code, out, err = run.end()
        assert code == 0, out + err
        digests.append(run.summary["weights_sha256"])
    # Modules that hold no tensors don't change the plain network's names, but for their place.
    assert digests[0] == digests[1]


def test_what_a_run_leaves_behind_can_be_used(start, tmp_path):
    """Records, weights and config: each is read back as its reader would."""
    run = start(*SMALL, "--workers", "2", "--steps", "12")
    code, out, err = run.end()
    assert code == 0, out + err
    for key in ("t", "block", "pid", "generation", "step", "loss", "probe_top1", "samples_per_s"):
        assert all(key in record for record in run.metrics())
    assert {(r["block"], r["step"]) for r in run.metrics()} == {
        (block, step) for block in (0, 1) for step in range(12)
    }
    assert (run.dir / "logs" / "worker-1.log").exists()
    assert list((run.dir / "tensorboard").iterdir())

    config = parse(["--config", str(run.dir / "config.toml")], prog="test")
    machine = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)
    job = LocalLearningJob(resolve(config, environment=machine))
    weights = safetensors.torch.load_file(run.dir / "weights.safetensors")
    plain = build_plain(job.resolved.network, seed=99)
    plain.load_state_dict(weights)
    assert digest.of_tensors(weights) == run.summary["weights_sha256"]
    units = json.loads(json.dumps(job.evaluate(weights)))
    assert units == run.summary["units"]

    again = start("--config", str(run.dir / "config.toml"))
    assert again.end()[0] == 0
    assert again.summary["state_sha256"] == run.summary["state_sha256"]


def test_the_sequential_program_leaves_the_same_run(start):
    flags = (*SMALL, "--workers", "4", "--steps", "8")
    pipeline = start(*flags)
    assert pipeline.end()[0] == 0
    sequential = start(*flags, script="sequential.py")
    code, out, err = sequential.end()
    assert code == 0, out + err
    for key in ("weights_sha256", "state_sha256", "units", "final", "steps", "batches"):
        assert sequential.summary[key] == pipeline.summary[key], key
    assert sequential.summary.keys() == pipeline.summary.keys()
    assert sequential.summary["blocks"][0].keys() == pipeline.summary["blocks"][0].keys()
    assert {p.name for p in sequential.dir.iterdir()} == {p.name for p in pipeline.dir.iterdir()}


def test_the_main_job_under_torchrun(start, torchrun):
    run = start(*SMALL, "--steps", "8", launcher=torchrun)
    code, out, err = run.end()
    assert code == 0, out + err
    assert run.summary["steps"] == 8
    assert len(run.summary["blocks"]) == 4
    assert "decoupled updates" in out
    assert len({record["pid"] for record in run.metrics()}) == 4


def test_evaluate_repeats_a_finished_run(start, tmp_path):
    run = start(*SMALL, "--workers", "1", "--steps", "3")
    assert run.end()[0] == 0
    from launch.evaluate import main

    assert main([str(run.dir)]) == 0
    assert main([str(tmp_path / "nothing")]) == 2
