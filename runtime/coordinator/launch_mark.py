"""Which launch has begun the run whose checkpoints lie in a directory: a mark in it.

With --fresh a launch deletes what it finds, but not what an earlier attempt of itself has left. If
rank 0 is on another host than then, the store may be another one too; the mark is where the
checkpoints are.
"""

from collections.abc import Collection

from runtime.state.storage import Storage, read

MARK = ".launch"  # holds the launchers of all ranks, one a line


def mark_launch(storage: Storage, launchers: Collection[str]) -> None:
    """Leave the mark of these launchers. Raises OSError."""
    if launchers:
        storage.write(MARK, "\n".join(launchers).encode())


def is_of_launch(storage: Storage, launchers: Collection[str]) -> bool:
    """Whether one of these launchers has begun what lies there. Raises OSError."""
    if not launchers or not storage.exists(MARK):
        return False
    return not set(launchers).isdisjoint(read(storage, MARK).decode().splitlines())
