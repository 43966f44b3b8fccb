"""Ties processes together, so that nothing that a run has started outlives it.

Owns the kernel's parent-death signal, who adopts a dead process's children, and their end. A fork
server dies with its keeper, a worker with its fork server, and what a worker's user code has
started (pools, helpers) with its worker.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MARK = "LOCO_PROCESS"
MOST_ROUNDS = 10  # of children that appear while their parents are being killed


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send a signal to this process when the thread that started it ends.

    Does not outlive a fork: each process says it for itself. Raises OSError if the kernel
    refuses.
    """
    _prctl(PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent dies.

    So children of a worker that died stay below its fork server, where its keeper finds them.
    Does not outlive a fork. Raises OSError if the kernel refuses.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def mark_descendants() -> None:
    """Make what this process starts known as its own, also when it has died: by its process
    group, and by a variable if that is left."""
    os.setpgid(0, 0)
    os.environ[MARK] = str(os.getpid())


def _is_marked(process: psutil.Process, pid: int) -> bool:
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        return os.getpgid(process.pid) == pid or process.environ().get(MARK) == str(pid)
    return False


def kill_below(pid: int, *, spare: Iterable[int] = (), only: int | None = None) -> int:
    """Kill the descendants of a process, but for the children `spare` and what is below them; of
    its children `only` those of a process that has died, which had marked them.

    Repeated until none is left, since one may start another meanwhile. Returns how many died.
    """
    spared, num_killed = set(spare), 0
    for _ in range(MOST_ROUNDS):
        found = [child for child in children(pid) if child.pid not in spared]
        found = [child for child in found if only is None or _is_marked(child, only)]
        found += [below for child in found for below in children(child.pid, recursive=True)]
        if not found:
            break
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                num_killed += 1
        psutil.wait_procs(found, timeout=1.0)
    return num_killed


def children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    """The living children of a process; none if it has ended."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=recursive):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
    return found


def suspend(pids: Iterable[int]) -> list[int]:
    """Stop processes and what is below them; return those that ran and are stopped now."""
    stopped = []
    for pid in pids:
        for found in (pid, *(child.pid for child in children(pid, recursive=True))):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if psutil.Process(found).status() != psutil.STATUS_STOPPED:
                    os.kill(found, signal.SIGSTOP)
                    stopped.append(found)
    return stopped


def resume(pids: Iterable[int]) -> None:
    """Let stopped processes go on."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
