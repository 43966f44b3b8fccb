"""Starts the fork server: a process with torch loaded, which forks workers in milliseconds.

Owns the surroundings in which it starts (where it looks for modules, where its socket lies) and
the end of what dead workers have left below it. A process has one fork server, multiprocessing's.
"""

import contextlib
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from multiprocessing import forkserver, process, util
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, TextIO

import psutil

import runtime
from runtime.lifetime import children, kill_below

ROOT = str(Path(runtime.__file__).resolve().parents[1])
VARIABLE = "LOCO_FORK_SERVER"  # by which runtime.keeper.in_fork_server is told, as JSON
FIRST, LAST = "runtime.keeper.in_fork_server", "runtime.keeper.fork_server_ready"  # it imports
READY = "ready"  # a file in which it says who it is when all is there
PREFIX = "loco-"  # of its directory's name
MOST_SERVERS = 2  # that die as they import
# A socket's path has 107 bytes at most, and a long TMPDIR leaves no room for its name.
LONGEST_DIRECTORY = 60
SHORT_DIRECTORIES = ("/tmp", "/var/tmp", "/dev/shm")


def make_context(preload: Sequence[str]) -> ForkServerContext:
    """The context whose processes are forked from a server that has imported `preload`."""
    # Where the server's socket lies, and those of whatever user code starts in its children.
    process.current_process()._config["tempdir"] = directory()  # type: ignore[attr-defined]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([FIRST, *preload, LAST])
    return context


def is_ready() -> bool:
    """Whether the fork server has imported all that it preloads, which may take long, so that it
    forks at once; call it within `surroundings`, for it starts the server if there is none. Raises
    EOFError if servers die as they import."""
    try:
        forkserver.ensure_running()
    except ChildProcessError:  # it was ended, and waited for, as one of the orphans
        _forget_server()
        forkserver.ensure_running()
    pid = _server_pid()
    if pid is not None and pid in _ready:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)  # it would keep its keeper waiting
        return True
    _importing.add(pid)
    with contextlib.suppress(OSError):  # it has not said so yet
        if Path(directory(), READY).read_text() == str(pid):
            _importing.clear()
            _ready.add(pid)
            return True
    if len(_importing) > MOST_SERVERS:
        raise EOFError("the fork server dies as it begins")
    return False


def _server_pid() -> int | None:
    """The server that was started last."""
    server: Any = forkserver._forkserver
    pid: int | None = server._forkserver_pid
    return pid


def _forget_server() -> None:
    """Let multiprocessing start another: it would wait for one that has been waited for."""
    server: Any = forkserver._forkserver
    os.close(server._forkserver_alive_fd)
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None


_ready: set[int | None] = set()  # the servers that can fork, or could
_importing: set[int | None] = set()  # the servers that have begun and not become ready


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
    told = {"keeper_pid": os.getpid(), "directory": directory(), "environment": before}
    os.environ.update(changes, **{VARIABLE: json.dumps(told)})
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_orphans(of: int | None = None) -> None:
    """Kill the pools and helpers that a process, or any, has left below the fork server when it
    died; and all that came to this process if the server itself was killed."""
    server = _server()
    ours = {child.pid for child in multiprocessing.active_children() if child.pid is not None}
    if server is not None:
        kill_below(server, spare=ours, only=of)
    else:
        kill_below(os.getpid(), spare={*ours, *_trackers(), *_children_before()})


def end() -> None:
    """End a fork server that does not become ready; one that is has other children."""
    server = _server()
    if server is not None and server not in _ready:
        os.kill(server, signal.SIGKILL)


def _trackers() -> Iterator[int]:
    """multiprocessing's resource tracker, which leaves by itself."""
    for child in children(os.getpid()):
        with contextlib.suppress(psutil.Error):
            if "multiprocessing.resource_tracker" in " ".join(child.cmdline()):
                yield child.pid


def _server() -> int | None:
    """The fork server's process, if it has begun and lives."""
    pid = _server_pid()
    return pid if pid in {child.pid for child in children(os.getpid())} else None


@cache
def _children_before() -> frozenset[int]:
    """What this process had started before it had a fork server."""
    return frozenset(child.pid for child in children(os.getpid()))


@cache
def directory() -> str:
    """A private directory for sockets; it goes with this process, or with the server if this
    process is killed, or with the next one that finds its lock free."""
    _children_before()
    default = tempfile.gettempdir()
    short = [default] if len(os.fsencode(default)) <= LONGEST_DIRECTORY else []
    usable = [d for d in (*short, *SHORT_DIRECTORIES) if os.access(d, os.W_OK | os.X_OK)]
    parent = Path((usable or [default])[0])
    for left in parent.glob(f"{PREFIX}*/lock"):
        with contextlib.suppress(OSError):  # it is in use, or gone
            if left.parent.lstat().st_uid == os.geteuid():
                with os.fdopen(os.open(left, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)) as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left.parent, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = (path / "locking").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (path / "locking").rename(path / "lock")
    # Behind multiprocessing's own, which removes what it has made in there. It holds the lock.
    util.Finalize(None, _remove, (path, lock), exitpriority=-101)
    return str(path)


def _remove(path: Path, lock: TextIO) -> None:
    shutil.rmtree(path, ignore_errors=True)
    lock.close()
