"""How much memory this process may use: its host's, as far as its control groups' limits go.

Owns reading both. A container's limit is not in the host's figures: who goes beyond is killed.
"""

from collections.abc import Iterator
from pathlib import Path

import psutil

from models.cgroups import MEMBERSHIP, ROOT, groups, read

FILES = (  # a group's limit and use, and what its memory.stat puts before a name, by version
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
TAKEN_BACK = ("active_file", "inactive_file")  # by the kernel, when it needs room


def total_bytes(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """All that this process may ever have, with all others that it shares its limits with."""
    limits = [limit for limit, _ in _limits(root, membership)]
    return min([psutil.virtual_memory().total, *limits])


def available_bytes(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """What it may take now. Files that the kernel keeps in memory leave room, as in the host's
    figure: a container that has read its data would seem to be full."""
    left = [limit - in_use for limit, in_use in _limits(root, membership)]
    return max(0, min([psutil.virtual_memory().available, *left]))


def _limits(root: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Each limited group's limit and what can't be taken back of it, in bytes."""
    for directory in groups("memory", root, membership):
        for limit_file, use_file, prefix in FILES:
            limit = read(directory / limit_file).strip()
            if not limit.isdigit():
                continue  # "max", or no such file
            lines = read(directory / "memory.stat").splitlines()
            figures = {name: int(figure) for name, figure in map(str.split, lines)}
            files = sum(figures.get(f"{prefix}{name}", 0) for name in TAKEN_BACK)
            yield int(limit), int(read(directory / use_file) or 0) - files
