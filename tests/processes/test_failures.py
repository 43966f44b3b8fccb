"""What a job does when something goes wrong: it says so, ends, and leaves nothing."""

import os
import signal

import pytest

from .conftest import SMALL, assert_nothing_is_left

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


def test_worker_that_always_fails_ends_the_job_with_a_traceback(start, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    flags = ("--batch-size", "16", "--checkpoint-every", "5", "--max-worker-restarts", "2")
    run = start("--model", "failing:build", "--steps", "50", *flags)
    code, _, err = run.end()
    assert code == 1
    assert "failed with exit code 1 (RuntimeError: the third unit has had enough)" in err
    assert "more than 2 restarts" in err
    assert "the last complete checkpoint is of step" in err
    assert "RuntimeError: the third unit has had enough" in err
    assert "in forward" in err
    logs = "".join(path.read_text() for path in (run.dir / "logs").iterdir())
    assert "the third unit has had enough" in logs


def test_directory_is_for_one_job_and_free_if_a_keeper_is_killed(start):
    """A keeper that is killed leaves nothing behind."""
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


def test_rank_0_alone_prints_the_message_under_torchrun(start, torchrun):
    run = start("--workers", "5", launcher=torchrun)
    code, _, err = run.end()
    assert code != 0
    assert err.count("pipeline: error:") == 1
    assert "more than the launcher's 4 ranks" in err
    assert "exitcode  : 2" in err
