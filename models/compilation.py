"""Units compiled by torch.compile, each by itself, before the first step.

Owns how: never across units, for a fusion that a guest has and its home has not would part them,
and for one shape, since a batch has one. Imports torch's compiler, which takes seconds, only when
something is compiled.
"""

import os
import shutil
from collections.abc import Iterable

import torch
from torch import nn

from models.user_cache import NoHome, user_cache

SECONDS_A_UNIT = 60.0  # that compiling may take, on a busy machine
MOST_FORMS = 1000  # of one module's code: the units of a network that have different shapes
COMPILERS = ("g++", "clang++")
CACHE, FOLDER = "TORCHINDUCTOR_CACHE_DIR", "compiled"


def what_lacks() -> str:
    """What this host lacks for it; "" if nothing."""
    wanted = (os.environ["CXX"],) if "CXX" in os.environ else COMPILERS
    if not any(shutil.which(name) for name in wanted):
        return f"a C++ compiler: {' or '.join(wanted)} is not on the PATH"
    if CACHE not in os.environ:
        try:
            _make_folder()
        except NoHome:
            return f"a place for what is compiled: a home directory, or XDG_CACHE_HOME, or {CACHE}"
        except OSError as error:
            return (
                f"a place for what is compiled, and {str(error.filename)!r} can't be made"
                f" ({(error.strerror or '').lower()}): another home directory, or XDG_CACHE_HOME,"
                f" or {CACHE}"
            )
    return ""


def _make_folder() -> str:
    """The folder for what is compiled, where nobody else can write. Raises NoHome or OSError."""
    directory = user_cache(FOLDER)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(directory)


def compile_units(units: Iterable[nn.Module]) -> None:
    """Have each unit compiled when it is first run; its weights keep their names."""
    _keep_in_users_cache()  # before torch's compiler is imported, which would choose
    import torch._dynamo.config as tracing
    import torch._inductor.config as generating

    # More forms than the limit would silently run uncompiled.
    tracing.recompile_limit = tracing.accumulated_recompile_limit = MOST_FORMS
    tracing.fail_on_recompile_limit_hit = True
    generating.compile_threads = 1  # a pool's processes would outlive a worker that is killed
    generating.fallback_random = True  # dropout draws what it draws uncompiled
    generating.cpp.threads = torch.get_num_threads()  # bits depend on it
    for unit in units:  # not by unit.compile(), which passes over modules of torch.nn itself
        unit.forward = torch.compile(unit.forward, dynamic=False)


def _keep_in_users_cache() -> None:
    """Keep what is compiled where nobody else can write: torch loads pickles from there, and its
    own choice is a name in /tmp that anyone may take."""
    if CACHE not in os.environ:
        os.environ[CACHE] = _make_folder()
