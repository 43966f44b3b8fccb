"""The control groups that this process is in, whose limits no figure of the host shows.

Owns finding them, in version 1 and 2. Knows nothing of what they limit.
"""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def groups(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """The directories of this process's group and of those above it, for a controller ("cpu")."""
    for line in read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2 has one tree
            trees = [root, root / "unified"]
        elif controller in controllers.split(","):
            trees = [root / controller, root / controllers]
        else:
            continue
        for tree in trees:
            inner = tree / path.lstrip("/")
            # In a container the path may be the host's: its own group then is the tree's root.
            for directory in (inner, *inner.parents):
                if directory.is_relative_to(tree):
                    yield directory


def read(path: Path) -> str:
    """What a file says; nothing if it is not there."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
