"""Where a keeper's child begins: it imports its body by name, so that the keeper stays light.

Owns how such a process ends: when its body does, whatever threads user code has left in it.
"""

import contextlib
import importlib
import os
import signal
import sys
import traceback
from multiprocessing import util
from typing import NoReturn

from runtime.lifetime import mark_descendants

FINALIZERS_S = 5  # for all of them; what is left then is killed by the keeper


def run(body: str, *arguments: object) -> NoReturn:
    """Run a body, named as package.module:function, with these arguments; then end the process:
    multiprocessing's finalizers run (a pool's, a manager's), threads are not waited for."""
    code = 1
    mark_descendants()
    try:
        module, _, function = body.partition(":")
        getattr(importlib.import_module(module), function)(*arguments)
        code = 0
    except SystemExit as error:
        code = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # user code closed it
                stream.flush()
        signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
        signal.alarm(FINALIZERS_S)
        util._run_finalizers()  # type: ignore[attr-defined]
        os._exit(code)
