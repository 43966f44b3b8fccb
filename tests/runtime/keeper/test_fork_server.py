"""The fork server looks for our packages first, and leaves nothing, whatever surrounds it.

This is also the test of runtime/keeper/in_fork_server.py, which runs in it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from runtime.keeper import fork_server

ROOT = Path(__file__).parents[3]
# A keeper in small: starts a process that says what it finds, and lets it leave an orphan.
KEEPER = """
import os, subprocess, sys, time
sys.path.insert(0, ROOT)
from runtime.keeper import fork_server
from runtime.lifetime import adopt_orphans

def child(pipe):
    import runtime
    orphan = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    names = ("PYTHONPATH", "PYTHONSAFEPATH", fork_server.VARIABLE)
    found = {name: os.environ.get(name) for name in names}
    pipe.send((runtime.__file__, found, os.getppid(), orphan.pid))

if __name__ == "__main__":
    adopt_orphans()
    context = fork_server.make_context(["runtime.program"])
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    with fork_server.surroundings():
        process.start()
    file, found, server, orphan = ours.recv()
    process.join()
    print(repr((file, found, server, orphan)), flush=True)
    sys.stdin.readline()
    fork_server.end_orphans()
    print("ended", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def start(tmp_path):
    """Run the small keeper in a directory whose folder `runtime` would shadow ours."""
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").touch()
    script = tmp_path / "keeper.py"
    script.write_text(f"ROOT = {str(ROOT)!r}\n{KEEPER}")
    started = []

    def start(**environment: str) -> tuple[subprocess.Popen[str], tuple]:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        return process, eval(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_packages_of_ours_come_before_the_users(start, tmp_path):
    """The user's environment is as it was. A user's empty models/__init__.py in the current
    directory took the place of ours: the server runs `python -c`, which looks there first."""
    process, (file, found, _, _) = start(PYTHONPATH=str(tmp_path))
    assert Path(file) == ROOT / "runtime" / "__init__.py"
    assert found == {
        "PYTHONPATH": str(tmp_path),
        "PYTHONSAFEPATH": None,
        fork_server.VARIABLE: None,
    }
    process.communicate("\n\n", timeout=20)
    assert process.returncode == 0


def directory_of(server: int) -> Path:
    """The private directory of a fork server; other tests have theirs."""
    found = []
    for path in Path("/tmp").glob("loco-*/ready"):
        with contextlib.suppress(OSError):  # it has just ended
            found += [path.parent] if path.read_text() == str(server) else []
    (directory,) = found
    return directory


def test_tmpdir_too_long_for_a_socket_is_not_used(start, tmp_path):
    """Nothing is left behind. TMPDIR of 150 characters: OSError, AF_UNIX path too long."""
    long = tmp_path / ("x" * 150)
    long.mkdir()
    process, (_, _, server, _) = start(TMPDIR=str(long))
    ours = directory_of(server)
    assert ours.stat().st_mode & 0o777 == 0o700
    process.communicate("\n\n", timeout=20)
    assert process.returncode == 0
    assert list(long.iterdir()) == []
    assert not ours.exists()


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def await_end(*pids: int) -> None:
    deadline_s = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_processes_left_behind_are_ended_and_the_server_stays(start):
    process, (_, _, server, orphan) = start()
    assert psutil.pid_exists(orphan)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ended\n"
    await_end(orphan)
    assert psutil.pid_exists(server)


@pytest.mark.parametrize("again", range(3))
def test_killed_keeper_takes_the_server_and_all_below_along(start, again):
    """The server saw the end of its keeper's pipe before the kernel told it of the death, and left
    without a look at what was below it."""
    process, (_, _, server, orphan) = start(TMPDIR="/tmp")
    directory = directory_of(server)
    process.send_signal(signal.SIGKILL)
    process.wait()
    await_end(server, orphan)
    assert not directory.exists()


def test_killed_server_leaves_what_was_below_to_its_keeper(start):
    """After kill -9 of the fork server the job healed, and users' processes outlived it."""
    process, (_, _, server, orphan) = start()
    os.kill(server, signal.SIGKILL)
    await_end(server)
    assert psutil.pid_exists(orphan)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ended\n"
    await_end(orphan)


def test_pipe_that_another_has_put_among_left_directories_is_not_waited_for(start):
    """Whoever may write to the temporary directory could else hang every start."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as directory:
        trap = Path(directory, "loco-trap")
        trap.mkdir()
        os.mkfifo(trap / "lock")
        process, _ = start(TMPDIR=directory)
        process.communicate("\n\n", timeout=20)
        assert process.returncode == 0


# Being ready ------------------------------------------------------------------------------------

JOB = """
import sys, time
sys.path[:0] = [ROOT, HERE]
from runtime.keeper.keeper import Keeper
from runtime.program import Program

if __name__ == "__main__":
    program = Program(
        resolve=None, load=None, preload=("slow",), run_dir="run", name="test", run_name="test",
        started_t=time.time(), secret=bytes(16),
    )
    sys.exit(Keeper(program).run())
"""


def run_job(tmp_path: Path, module: str) -> subprocess.Popen[str]:
    """A job whose fork server imports this module."""
    (tmp_path / "slow.py").write_text(module)
    script = tmp_path / "job.py"
    script.write_text(f"ROOT, HERE = {str(ROOT)!r}, {str(tmp_path)!r}\n{JOB}")
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        text=True,
        stderr=subprocess.PIPE,
    )


def test_signal_ends_a_job_whose_fork_server_still_imports(tmp_path):
    """The keeper was deaf for as long as torch took to be read from a slow file system."""
    begun = tmp_path / "begun"
    job = run_job(tmp_path, f"open({str(begun)!r}, 'w').close(); import time; time.sleep(100)")
    with job:
        until_s = time.monotonic() + 60.0
        while not begun.exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        _, told = job.communicate(timeout=30.0)
    assert (job.returncode, told) == (130, "test: stopped by SIGINT before the first step\n")


def test_fork_server_that_dies_as_it_begins_ends_the_job(tmp_path):
    with run_job(tmp_path, "import os; os._exit(3)") as job:
        _, told = job.communicate(timeout=60.0)
    assert job.returncode == 1
    assert "a process can't be started (the fork server dies as it begins)" in told
