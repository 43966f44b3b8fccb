"""A place of their own for the fork servers of jobs under test, and what these leave in it.

Owns how long a directory may outlive its job. What makes and removes it is the keeper's.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from runtime.keeper.fork_server import PREFIX

GRACE_S = 5.0  # as after the death of a keeper, whose fork server has to notice it
LOOK_EVERY_S = 0.05


@contextlib.contextmanager
def own_place() -> Iterator[Path]:
    """A TMPDIR that nobody else uses, with a path short enough for sockets below it."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as path:
        yield Path(path)


def left_in(place: Path) -> list[Path]:
    """The directories that outlive their fork servers there; blocks while any is left."""
    deadline_s = time.monotonic() + GRACE_S
    while left := sorted(place.glob(f"{PREFIX}*")):
        if time.monotonic() >= deadline_s:
            break
        time.sleep(LOOK_EVERY_S)
    return left
