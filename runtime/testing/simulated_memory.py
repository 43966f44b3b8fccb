"""What outlives a simulated worker: its keeper's memory, and its parts of checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.core.plan import Stream
from runtime.core.tie_stats import TieStats
from runtime.core.worker import WorkerCore

Outbox = dict[tuple[Stream, int], Any]


@dataclass
class Part:
    """One worker's part of a checkpoint."""

    weights: int
    ties: Outbox
    is_whole: bool = True
    tie_stats: TieStats = field(default_factory=TieStats)


@dataclass
class Memory:
    """What outlives the generations of one worker; of these, its parts outlive the job too."""

    saved: tuple[int, int]  # step, weights
    stop_at: int | None = None
    parts: dict[int, Part] = field(default_factory=dict)
    tie_stats: TieStats = field(default_factory=TieStats)  # of the state that is saved


def is_complete(step: int, memories: Sequence[Memory]) -> bool:
    """Whether every worker's part of the checkpoint before `step` is there and whole."""
    parts = [memory.parts.get(step) for memory in memories]
    return all(part is not None and part.is_whole for part in parts)


def retained_below(core: WorkerCore, outbox: Outbox, step: int) -> dict[Stream, dict[int, bool]]:
    """For each stream the messages just below `step`, and whether each is absent; of a free tie
    the newest one."""
    found: dict[Stream, dict[int, bool]] = {}
    for stream in core.plan.outgoing:
        if core.plan.is_free(stream):
            here = [s for name, s in outbox if name is stream and s < step]
            found[stream] = {max(here): False} if here else {}
            continue
        found[stream], s = {}, min(step, core.plan.num_messages(stream)) - 1
        while (stream, s) in outbox:
            found[stream][s] = outbox[stream, s] is None
            s -= 1
    return found
