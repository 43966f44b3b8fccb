"""How many cores this process may use: those it may run on, as far as its cgroups' quotas go.

Owns reading both. A container's quota is in no affinity: threads beyond it are throttled.
"""

import math
import os
from pathlib import Path

from models.cgroups import MEMBERSHIP, ROOT, groups, read


def usable_cores(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """At least 1; a quota of 1.5 cores is 1, since a thread that shares the half is waited for."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, math.floor(min(allowed, quota(root, membership))))


def quota(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float:
    """The fewest cores that a cgroup of this process, or one above it, may use; infinity if none
    is limited."""
    return min(map(_quota_of, groups("cpu", root, membership)), default=math.inf)


def _quota_of(directory: Path) -> float:
    """One group's quota in cores, in either version's files."""
    words = read(directory / "cpu.max").split()
    if not words:
        words = [read(directory / f"cpu.cfs_{what}_us").strip() for what in ("quota", "period")]
    limit, period = [*words, "", ""][:2]
    if not (limit.isdigit() and period.isdigit() and int(period) > 0):
        return math.inf  # "max", "-1", or no such file
    return int(limit) / int(period)
