"""Starts the fork server: a process with torch loaded, which forks workers in milliseconds.

Owns the surroundings in which it starts (where it looks for modules, where its socket lies) and
the end of what dead workers have left below it. A process has one fork server, multiprocessing's.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from multiprocessing import util
from multiprocessing.context import ForkServerContext
from pathlib import Path

import runtime
from runtime.lifetime import kill_below

ROOT = str(Path(runtime.__file__).resolve().parents[1])
VARIABLE = "LOCO_FORK_SERVER"  # by which runtime.keeper.in_fork_server is told, as JSON
# A socket's path has 107 bytes at most, and a long TMPDIR leaves no room for its name.
LONGEST_DIRECTORY = 60
SHORT_DIRECTORIES = ("/tmp", "/var/tmp", "/dev/shm")


def make_context(preload: Sequence[str]) -> ForkServerContext:
    """The context whose processes are forked from a server that has imported `preload`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runtime.keeper.in_fork_server", *preload])
    return context


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    """Must hold when a process is started: the first start, or one after the server has died,
    starts the server.

    It runs as `python -c`, which looks for modules in the current directory first: there a user's
    folder `models` would take the place of ours.
    """
    path = [ROOT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    changes = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
    before = {name: os.environ.get(name) for name in changes}
    told = {"keeper_pid": os.getpid(), "directory": _directory(), "environment": before}
    temporary, tempfile.tempdir = tempfile.tempdir, _directory()
    os.environ.update(changes, **{VARIABLE: json.dumps(told)})
    try:
        yield
    finally:
        tempfile.tempdir = temporary
        del os.environ[VARIABLE]
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_orphans() -> None:
    """Kill the pools and helpers that processes have left below the fork server when they died."""
    with contextlib.suppress(OSError, ValueError):  # it has not come so far
        pid = int(Path(_directory(), "pid").read_text())
        ours = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
        kill_below(pid, spare=ours)


@cache
def _directory() -> str:
    """A private directory for the server's socket; it goes with this process, or with the server
    if this process is killed."""
    default = tempfile.gettempdir()
    short = [default] if len(os.fsencode(default)) <= LONGEST_DIRECTORY else []
    usable = [d for d in (*short, *SHORT_DIRECTORIES) if os.access(d, os.W_OK | os.X_OK)]
    path = tempfile.mkdtemp(prefix="loco-", dir=(usable or [default])[0])
    # Behind multiprocessing's own, which removes what it has made in there.
    util.Finalize(None, shutil.rmtree, (path, True), exitpriority=-101)
    return path
