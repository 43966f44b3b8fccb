"""How many cores this process may use: those it may run on, as far as its cgroups' quotas go.

Owns reading both. A container's quota is in no affinity: threads beyond it are throttled.
"""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """At least 1; a quota of 1.5 cores is 1, since a thread that shares the half is waited for."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, math.floor(min(allowed, quota(root, membership))))


def quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """The fewest cores that a cgroup of this process, or one above it, may use; infinity if none
    is limited."""
    fewest = math.inf
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2 has one tree
            trees = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            trees = [root / "cpu", root / controllers]
        else:
            continue
        for tree in trees:
            inner = tree / path.lstrip("/")
            # In a container the path may be the host's: its own group then is the tree's root.
            for directory in (inner, *inner.parents):
                if directory.is_relative_to(tree):
                    fewest = min(fewest, _quota_of(directory))
    return fewest


def _quota_of(directory: Path) -> float:
    """One group's quota in cores, in either version's files."""
    words = _read(directory / "cpu.max").split()
    if not words:
        words = [_read(directory / f"cpu.cfs_{what}_us").strip() for what in ("quota", "period")]
    limit, period = [*words, "", ""][:2]
    if not (limit.isdigit() and period.isdigit() and int(period) > 0):
        return math.inf  # "max", "-1", or no such file
    return int(limit) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
