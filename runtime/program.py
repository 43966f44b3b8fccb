"""What a keeper must know of a job to start its processes; imports no torch.

Owns the description only: how the processes come by the job, and where they meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.job import Job

REFUSED = 2  # exit code of a job that was refused; the coordinator has said why


@dataclass(frozen=True, kw_only=True)
class Program:
    """How a job's processes come by it; both callables are module-level, so they can travel.

    `resolve` runs once, in the coordinator, and raises ValueError for what a user got wrong; its
    text is what `load` makes the job of in every process. `preload` are modules that the fork
    server imports once. `run_dir` is the user's wish; None makes a new one.
    """

    resolve: Callable[[], str]
    load: Callable[[str], Job]
    preload: tuple[str, ...]
    run_dir: str | None
    name: str
    run_name: str
    started_t: float  # unix seconds at which the command was given


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where a job's processes meet: a file (laptop), or torchrun's store when `file` is None."""

    file: str | None
