"""What a run's processes start goes with them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from runtime.lifetime import children, kill_below, resume, suspend

TIMEOUT_S = 20.0
# Prints the ids of a child, of its child, and of one that it leaves to whoever adopts it.
FAMILY = """
import os, subprocess, sys, time
from runtime.lifetime import adopt_orphans
adopt_orphans()
child = subprocess.Popen([sys.executable, "-c", '''
import subprocess, time
print(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid, flush=True)
time.sleep(1000)
'''])
subprocess.run(["sh", "-c", "sleep 1000 & echo $!"])
print(child.pid, flush=True)
time.sleep(1000)
"""


def await_true(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process, and the ids of the three below it."""
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(3)]
    yield process, pids
    for pid in (process.pid, *pids):
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_descendants_are_killed_orphans_and_other_sessions_too(family):
    process, pids = family
    await_true(lambda: len(children(process.pid)) == 2)  # the child and the orphan
    assert kill_below(process.pid) == 3
    assert not any(map(is_alive, pids))
    assert process.poll() is None


def test_spared_process_retains_what_it_has_started(family):
    process, pids = family
    await_true(lambda: len(children(process.pid)) == 2)
    spared = next(c.pid for c in children(process.pid) if children(c.pid))
    assert kill_below(process.pid, spare=[spared]) == 1
    assert sum(map(is_alive, pids)) == 2


def test_process_that_has_ended_has_nobody_below(family):
    process, _ = family
    kill_below(process.pid)
    process.kill()
    process.wait()
    assert children(process.pid) == []
    assert kill_below(process.pid) == 0


def test_descendants_are_suspended_and_go_on_as_they_were(family):
    process, pids = family
    os.kill(pids[0], signal.SIGSTOP)
    await_true(lambda: psutil.Process(pids[0]).status() == psutil.STATUS_STOPPED)
    stopped = suspend([process.pid])
    assert sorted([*stopped, pids[0]]) == sorted([process.pid, *pids])
    await_true(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    resume(stopped)
    await_true(lambda: psutil.Process(process.pid).status() != psutil.STATUS_STOPPED)
    assert psutil.Process(pids[0]).status() == psutil.STATUS_STOPPED


MARKED = """
import subprocess, sys
from runtime.lifetime import adopt_orphans, mark_descendants
if sys.argv[1:] == ["below"]:
    mark_descendants()
    group = subprocess.Popen(["sleep", "1000"])
    session = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print(group.pid, session.pid, flush=True)
else:
    adopt_orphans()
    for _ in range(2):
        command = [sys.executable, "-c", sys.argv[1], "below"]
        dead = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        print(dead.pid, dead.stdout.readline().strip(), flush=True)
        dead.wait()
    sys.stdin.readline()
"""


def test_orphans_of_the_process_that_died_alone_are_killed():
    """A worker's death must not cost a healthy one the daemons that its user code has started."""
    adopter = subprocess.Popen(
        [sys.executable, "-c", MARKED, MARKED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    first, second = ([int(pid) for pid in adopter.stdout.readline().split()] for _ in range(2))
    await_true(lambda: len(children(adopter.pid)) == 4)
    assert kill_below(adopter.pid, only=first[0]) == 2
    assert [is_alive(pid) for pid in (*first[1:], *second[1:])] == [False, False, True, True]
    assert kill_below(adopter.pid) == 2
    adopter.communicate("\n")
