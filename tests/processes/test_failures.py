"""What a job does when something goes wrong: it says so, ends, and leaves nothing."""

import os
import signal
import time
from pathlib import Path

import pytest

from .conftest import SMALL

FAILING = """
from torch import nn

class Fails(nn.Module):
    calls = 0

    def forward(self, x):
        Fails.calls += self.training and len(x) > 2
        if Fails.calls > 12:
            raise RuntimeError("the third unit has had enough")
        return x

def build():
    first, *rest = [nn.Linear(256, 16)] + [nn.Linear(16, 16) for _ in range(3)]
    rest[1] = nn.Sequential(Fails(), rest[1])
    return nn.Sequential(nn.Sequential(nn.Flatten(), first), *rest)
"""

LONG = (*SMALL, "--steps", "100000")


def open_sockets_of_runs() -> list[str]:
    """Abstract unix sockets that a run's links leave, if any."""
    return [line for line in Path("/proc/net/unix").read_text().splitlines() if "@loco-" in line]


def assert_nothing_is_left(run) -> None:
    assert run.survivors() == []
    assert open_sockets_of_runs() == []


@pytest.mark.parametrize("launcher", ["laptop", "torchrun"])
def test_a_killed_worker_ends_the_job_at_once(start, torchrun, launcher):
    run = (
        start(*LONG, "--workers", "4", launcher=torchrun)
        if launcher == "torchrun"
        else start(*LONG, "--workers", "4")
    )
    pid = run.await_step(2, 5)["pid"]
    began_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    code, _, err = run.end(timeout_s=20)
    assert code != 0
    assert time.monotonic() - began_s < 10
    assert f"worker 2 (pid {pid}) was killed by SIGKILL" in err
    assert_nothing_is_left(run)


def test_a_workers_exception_is_shown_with_its_traceback(start, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    run = start("--model", "failing:build", "--steps", "50", "--batch-size", "16")
    code, _, err = run.end()
    assert code == 1
    assert "failed with exit code 1" in err
    assert "RuntimeError: the third unit has had enough" in err
    assert "in forward" in err
    logs = "".join(path.read_text() for path in (run.dir / "logs").iterdir())
    assert "the third unit has had enough" in logs


def test_an_interrupted_job_ends_and_says_so_also_where_a_worker_is_stopped(start):
    run = start(*LONG, "--workers", "2")
    os.kill(run.await_step(1, 2)["pid"], signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.end(timeout_s=20)
    assert code == 128 + signal.SIGINT
    assert "stopped by SIGINT" in err
    assert "Traceback" not in err
    assert_nothing_is_left(run)


def test_two_jobs_cannot_share_a_directory_and_a_killed_keeper_leaves_nothing(start):
    first = start(*LONG, "--workers", "2")
    first.await_step(1, 2)
    second = start(*LONG, "--workers", "2", run_dir=first.dir)
    code, out, err = second.end()
    assert code == 2
    assert "in use by process" in err
    assert "give another by --run-dir" in err
    assert out == ""
    assert first.process.poll() is None
    os.kill(first.process.pid, signal.SIGKILL)
    first.end(timeout_s=20)
    assert_nothing_is_left(first)


@pytest.mark.parametrize(
    ("flags", "told"),
    [(("--lag", "-1"), "lag -1"), (("--model", "resnet-smal"), "resnet-small")],
)
def test_bad_input_is_one_message_and_exit_code_2(start, flags, told):
    """One that is seen at once, and one that takes torch to see; tests/launch has them all."""
    run = start(*flags)
    code, out, err = run.end()
    assert code == 2
    assert out == ""
    assert err.startswith("pipeline: error: ")
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (run.dir / "config.toml").exists()


def test_under_torchrun_rank_0_alone_prints_the_message(start, torchrun):
    run = start("--workers", "3", launcher=torchrun)
    code, _, err = run.end()
    assert code != 0
    assert err.count("pipeline: error:") == 1
    assert "unlike torchrun's world size 4" in err
    assert "exitcode  : 2" in err
