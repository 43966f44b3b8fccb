"""The bodies of the keeper's children, imported where they run: the keeper stays light.

Owns how such a process ends: when its body does, whatever threads user code has left in it.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn

from runtime.program import Life, Meeting, Program


def coordinator(program: Program, meeting: Meeting, life: Life, keeper: Connection) -> None:
    """Run the coordinator in this process."""
    from runtime.coordinator import run_coordinator

    _run(lambda: run_coordinator(program, meeting, life, keeper))


def worker(program: Program, meeting: Meeting, k: int, life: Life, keeper: Connection) -> None:
    """Run worker k in this process."""
    from runtime.worker import run_worker

    _run(lambda: run_worker(program, meeting, k, life, keeper))


def _run(body: Callable[[], None]) -> NoReturn:
    """Run the body and end the process as the interpreter would, but wait for no threads."""
    code = 1
    try:
        body()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if error.code != code:
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # user code closed it
                stream.flush()
        os._exit(code)
