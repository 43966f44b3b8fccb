"""Real runs in real processes: started as a user starts them, and looked at from outside."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.resolve import resolve
from models.sequential import train
from runtime import digest
from runtime.testing import fork_servers

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 100.0
SMALL = ("--model", "mlp", "--batch-size", "16", "--decoder-depth", "0", "--threads", "1")


@dataclass
class Run:
    """A run that was started, and its directory."""

    process: subprocess.Popen[str]
    dir: Path
    descendants: list[psutil.Process]

    def end(self, timeout_s: float = TIMEOUT_S) -> tuple[int, str, str]:
        """Wait for the end; return exit code, standard output and standard error."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.dir / "summary.json").read_text())

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl so far."""
        path = self.dir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def await_step(self, block: int, step: int) -> dict[str, Any]:
        """Wait until a block has reported a step; return that record."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            for record in self.metrics():
                if record["block"] == block and record.get("step", -1) >= step:
                    self.descendants = psutil.Process(self.process.pid).children(recursive=True)
                    return record
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        raise AssertionError(f"block {block} never got to step {step}")

    def await_error(self, text: str) -> None:
        """Read standard error up to the line that holds `text`; `end` returns what follows."""
        assert self.process.stderr is not None
        assert any(text in line for line in self.process.stderr), f"{text!r} was never printed"

    def await_own_dir(self) -> None:
        """Wait until a run that was given no directory has made its own, and look there."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not (made := list(self.dir.glob("*"))):
            assert time.monotonic() < deadline_s, f"nothing was made in {self.dir}"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        (self.dir,) = made

    def survivors(self) -> list[psutil.Process]:
        """Processes of the run that outlived it, after a moment's grace."""
        _, alive = psutil.wait_procs(self.descendants, timeout=5)
        return alive


Start = Callable[..., Run]


@contextlib.contextmanager
def starting(directory: Path) -> Iterator[Start]:
    """Start programs in a directory; whatever is left of them is killed afterwards."""
    runs: list[Run] = []

    def start(
        *arguments: str,
        launcher: Sequence[str] = (sys.executable,),
        script: str = "pipeline.py",
        run_dir: Path | None = None,
        names_dir: bool = True,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Run:
        run_dir = run_dir or directory / f"run{len(runs)}"
        command = [*launcher, str(ROOT / "launch" / script), *arguments]
        if names_dir:
            command += ["--run-dir", str(run_dir)]
        else:
            run_dir = (cwd or directory) / "runs"
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or directory,
            env={**os.environ, **(environment or {})},
        )
        run = Run(process=process, dir=run_dir, descendants=[])
        runs.append(run)
        return run

    try:
        yield start
    finally:
        for run in runs:
            if run.process.poll() is None:
                parent = psutil.Process(run.process.pid)
                for process in [*parent.children(recursive=True), parent]:
                    process.kill()
                run.process.communicate()


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """Start programs in the test's own directory."""
    with starting(tmp_path) as start:
        yield start


@pytest.fixture
def torchrun() -> list[str]:
    """The launcher's command for four ranks, on a port of its own."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]


@pytest.fixture(scope="session", autouse=True)
def directories() -> Iterator[Path]:
    """Where fork servers of these tests have their directories. Tests in another process have one
    of their own: what they leave for a while, as after killing a keeper, is not ours to judge."""
    with fork_servers.own_place() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(place))
        yield place


@pytest.fixture(autouse=True)
def no_directory_is_left(directories) -> Iterator[None]:
    """Whatever became of a test's runs, no directory of a fork server outlives it."""
    yield
    assert fork_servers.left_in(directories) == []


def assert_nothing_is_left(run: Run) -> None:
    """No process of a run; of its sockets' directory see `no_directory_is_left`."""
    assert run.survivors() == []


def reference_digests(*arguments: str) -> dict[str, str]:
    """What the sequential program, one process and one loop, ends with."""
    config = parse(arguments, prog="reference")
    machine = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)
    job = LocalLearningJob(resolve(config, environment=machine))
    torch.set_num_threads(job.threads)
    blocks = [job.build_block(k) for k in range(job.num_workers)]
    train(blocks, num_steps=job.num_steps, lag=job.plan(0).lag)
    return digest.of_run(
        [block.home_state() for block in blocks], [block.state() for block in blocks]
    )
