"""What a worker says of itself while it runs.

Owns the report's fields and units. Knows nothing of how it travels or how it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """One worker's latest report; shares are fractions (0 to 1) of the time since the last.

    `step` counts the steps done; `units` names the block's home and guest in a few letters.
    `probe_top1` is measured on training batches. Figures not known yet are None.
    """

    block: int
    units: str
    step: int
    num_steps: int
    loss: float | None
    probe_top1: float | None
    samples_per_s: float
    compute_share: float
    wait_input_share: float
    wait_credit_share: float
    wait_tie_share: float
    queue_depth: int
    rss_bytes: int
    state: str


def units_label(home: Sequence[str], guest: Sequence[str]) -> str:
    """A block's units as shown to people: its home, and its guest in brackets."""
    return " ".join(home) + (f" (+ {' '.join(guest)})" if guest else "")


def event_line(record: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """What the user should be told of a record of metrics.jsonl; mostly nothing.

    `before` is the same worker's step record before this one.
    """
    who = f"worker {record['block']}"
    match record.get("event"):
        case "restart":
            return (
                f"{who} {record['cause']}, after {record['completed_before']} steps; a new one goes"
                f" on from step {record['from_step']}"
            )
        case "healed":
            return f"{who} is back where it was, {record['healed_s']:.1f} s later"
        case "carried":
            return f"{who} begins with {', '.join(record['notes'])}"
        case None if record["bad_steps"] > _bad_before(record, before):
            return (
                f"{who}: step {record['step']} was skipped, for its numbers were not finite"
                f" ({record['bad_steps']} such steps so far)"
            )
    return ""


def _bad_before(record: Mapping[str, Any], before: Mapping[str, Any] | None) -> int:
    """The bad steps before this record; all of its own where no one knows."""
    bad: int = record["bad_steps"]
    if before is not None:
        bad = before["bad_steps"]
    elif record["step"] == 0:
        bad = 0
    return bad
