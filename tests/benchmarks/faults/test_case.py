"""What a run's records say of its faults: when each fired, was seen and was over."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.faults.case import Job, left_behind, run_case
from runtime.faults.plan import parse
from runtime.testing import fork_servers

from .outcomes import BEGAN_T, died, outcome, steady

(KILL,) = parse("kill:1@5")
KILLED_T = BEGAN_T + 5.5


def run(*, faults=((str(KILL), KILLED_T),), **changes):
    return outcome(steady(0), died(1, 5, **changes), faults=dict(faults))


def test_fault_fired_when_its_log_says_so():
    assert run().fired_t(KILL) == KILLED_T
    assert run(faults=()).fired_t(KILL) is None


def test_death_is_detected_by_the_first_restart_behind_it():
    assert run(detected_s=0.5).detected_s(KILL, 1) == pytest.approx(0.5)
    assert run(detected_s=-1.0).detected_s(KILL, 1) is None, "that was another death"
    assert run().detected_s(KILL, 0) is None


def test_worker_is_healed_when_it_is_beyond_all_that_it_had_done():
    """Step 5 is repeated after 1.2 s, which is no news."""
    assert run(healed_s=2.5).healed_s(KILL, 1) == pytest.approx(2.5)
    assert run().healed_s(KILL, 0) == pytest.approx(0.5)  # the others go on


def test_worker_is_not_healed_before_the_step_of_its_fault():
    """A receiver may be behind the message that was hurt, and its next step is not beyond it."""
    (drop,) = parse("drop:0-1@9")
    found = outcome(steady(0), steady(1), faults={str(drop): BEGAN_T + 7.5})
    assert found.healed_s(drop, 1) == pytest.approx(1.5)


def test_worker_that_never_comes_beyond_is_not_healed():
    found = outcome(steady(0), steady(1, 6), faults={str(KILL): KILLED_T})
    assert found.healed_s(KILL, 1) is None
    assert run(faults=()).healed_s(KILL, 1) is None


def test_processes_and_time_are_those_of_the_records():
    found = run()
    assert (found.pids(0), found.pids(1)) == ({10}, {11, 99})
    assert found.training_s == pytest.approx(21.0)  # worker 1's last step ends 5.5 + 2.5 + 13 s in
    assert len(found.steps) == len(found.metrics) - 1


def test_command_is_the_jobs_with_its_plan():
    plain = Job(flags=("--steps=9",)).command(Path("/r"), [KILL], "pipeline.py")
    launched = Job(flags=(), under_torchrun=True).command(Path("/r"), [], "pipeline.py")
    assert plain[1].endswith("launch/pipeline.py")
    assert plain[2:] == ["--steps=9", "--run-dir", "/r", "--faults", "kill:1@5"]
    assert "torch.distributed.run" in launched
    assert launched[-1] == ""


MAPS = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 9):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("who", ["nobody", "another program", "a process of the job"])
def test_shared_memory_that_another_program_uses_is_not_left_behind(tmp_path, who):
    """The semaphores of a pool that began beside a case were counted as the job's."""
    place = tmp_path if who == "a process of the job" else tmp_path / "elsewhere"
    environment = {**os.environ, "TMPDIR": str(place)}
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file, contextlib.ExitStack() as stack:
        file.write(bytes(9))
        file.flush()
        if who != "nobody":
            command = [sys.executable, "-c", MAPS, file.name]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            user = stack.enter_context(subprocess.Popen(command, env=environment, **pipes))
            assert user.stdout.readline() == b"\n"  # it maps the file now
        found = left_behind(tmp_path, set(), {Path(file.name).name})
    assert found == ([] if who == "another program" else [file.name])


@pytest.mark.parametrize("leaves", [True, False])
def test_directory_of_sockets_that_outlives_the_job_is_told(monkeypatch, tmp_path, leaves):
    """Sockets were looked for under abstract names, which they had had before they became files,
    so that whatever a job left of them was never seen."""
    program = "import sys, tempfile; path = tempfile.mkdtemp(prefix='loco-'); print(path)"
    if not leaves:
        program += "; import os; os.rmdir(path)"
    monkeypatch.setattr(Job, "command", lambda *_: [sys.executable, "-c", program])
    monkeypatch.setattr(fork_servers, "GRACE_S", 0.0)
    found = run_case(Job(flags=()), tmp_path, [])
    assert found.left_behind == ([found.text.strip()] if leaves else [])
    assert not Path(found.text.strip()).exists(), "the next case has a place of its own"
