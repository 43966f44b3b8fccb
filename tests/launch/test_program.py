"""What a program says of itself before its processes are there, and which job it takes."""

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import tomli_w

from launch import resolve
from launch.config import ConfigError, RunConfig
from launch.program import load_job
from launch.resolve import dump

from .runs import light

ROOT = Path(__file__).parents[2]


def test_command_time_is_the_process_own():
    """It stood on the kernel's boot time in whole seconds: a run took longer than its command."""
    code = "from launch.program import command_time; print(command_time())"
    before_t = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    printed_t = float(done.stdout)
    assert before_t - 0.02 <= printed_t <= time.time()  # the kernel counts in hundredths


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("model", "http.server:test"),
        ("data", "folder:/etc"),
        ("views", "os:system"),
        ("head", "os:system"),
        ("objective", "os:system"),
        ("optimizer", "os:system"),
    ],
)
def test_rank_runs_no_code_but_its_own(name, theirs, monkeypatch):
    """Whoever writes the announcement could else have a worker import and call what he likes."""
    own = RunConfig(workers=2, model="mlp")
    announced = json.loads(dump(light(workers=2)))
    given = tomllib.loads(announced["config"]) | {name: theirs}
    announced["config"] = tomli_w.dumps(given)
    monkeypatch.setattr(resolve, "restore", lambda text: pytest.fail("it is made"))
    with pytest.raises(ConfigError, match=f"{name} .*, but rank 0 with {theirs}; start all"):
        load_job(own, json.dumps(announced))


@pytest.mark.parametrize(
    ("ours", "rank_0s", "message"),
    [
        (
            {"lr": 0.1},
            {},
            "with lr 0.1, but rank 0 with 0.002; start all ranks by the same command",
        ),
        ({"grad_clip": 2.0}, {}, "with grad-clip 2.0, but rank 0 without it; start all"),
        ({}, {"grad_clip": 2.0}, "without grad-clip, but rank 0 with 2.0; start all"),
        ({"checkpoint_every": 5}, {}, "with checkpoint-every 5, but rank 0"),
    ],
)
def test_rank_with_other_flags_than_rank_0_is_refused(ours, rank_0s, message):
    """Rank 0's counted, and nobody said so."""
    own = {"workers": 2, "model": "mlp", "decoder_depth": (0,)}
    with pytest.raises(ConfigError, match=f"started {message}"):
        load_job(RunConfig(**own, **ours), dump(light(workers=2, **rank_0s)))


def test_rank_may_have_places_of_its_own(tmp_path):
    first = light(workers=2)
    own = {"workers": 2, "model": "mlp", "decoder_depth": (0,)}
    config = RunConfig(**own, bind="lo", run_dir=tmp_path, secret_file=tmp_path / "job.key")
    assert load_job(config, dump(first)).num_workers == 2
    assert load_job(first.config, dump(first)).num_workers == 2  # all ranks repeat a run
