"""What a worker says of itself while it runs.

Owns the report's fields and units. Knows nothing of how it travels or how it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass


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
