"""Where a keeper's child begins: it imports its body by name, so that the keeper stays light.

Owns how such a process ends: when its body does, whatever threads user code has left in it.
"""

import contextlib
import importlib
import os
import sys
import traceback
from typing import NoReturn


def run(body: str, *arguments: object) -> NoReturn:
    """Run a body, named as package.module:function, with these arguments; then end the process as
    the interpreter would, but without waiting for threads."""
    code = 1
    try:
        module, _, function = body.partition(":")
        getattr(importlib.import_module(module), function)(*arguments)
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
