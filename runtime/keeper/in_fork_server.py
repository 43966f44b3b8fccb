"""Imported by the fork server when it starts: makes it end with its keeper, and take all with it.

Owns what the fork server does beside forking. Its process group is its own, so that a signal to
the keeper's group (Ctrl-C, a launcher's SIGTERM) reaches the keeper alone, which decides what
becomes of the job; one that is sent to this process is passed on, but for SIGINT, which
multiprocessing's server ignores.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import warnings
from types import FrameType

from runtime.keeper.fork_server import VARIABLE
from runtime.lifetime import adopt_orphans, die_with_parent, kill_below
from runtime.signals import STOPS, relayed


def _begin() -> str:
    """Returns the directory of this server's files."""
    told = json.loads(os.environ.pop(VARIABLE))
    for name, value in told["environment"].items():  # as the user had them, for what follows
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # Else torch tells of hosts without a name, and prints a stack for each store it does not reach.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    server_pid, keeper_pid = os.getpid(), told["keeper_pid"]

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != server_pid:
            return  # a child that has only just been forked
        if os.getppid() == keeper_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper_pid, relayed(number))
            return
        end_all()
        os._exit(128 + number)

    def end_all() -> None:
        if os.getpid() == server_pid:  # what is forked inherits this
            kill_below(server_pid)
            shutil.rmtree(told["directory"], ignore_errors=True)

    # The server may find its keeper's pipe closed before the signal comes, and leave by itself.
    atexit.register(end_all)
    for number in STOPS:
        signal.signal(number, note)
    os.setpgid(0, 0)
    adopt_orphans()
    # The kernel tells it that the keeper has died. multiprocessing's server wonders at orphans.
    die_with_parent(signal.SIGTERM)
    warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")
    directory: str = told["directory"]
    if os.getppid() != keeper_pid:
        os.kill(server_pid, signal.SIGTERM)
    return directory


DIRECTORY = _begin()
