"""What a worker's core says of itself to those who report and supervise.

Owns the names only: `WorkerCore.stats` fills them in, and nobody else looks inside a core.
"""

from dataclasses import dataclass

from runtime.core.state import State
from runtime.core.tie_stats import TieStats


@dataclass(frozen=True, kw_only=True)
class CoreStats:
    """A core as it is now. Steps: `step` is under way, `reached` is the first that no generation
    has begun, and `end` the first that is not run. `is_stopping`: `end` comes before the last.

    `pending_snapshot` is the step of the snapshot that is not durable yet. The rest counts messages
    of this generation, but for `tie_stats`, which belong to the state.
    """

    state: State
    step: int
    reached: int
    stop_at: int | None
    end: int
    is_stopping: bool
    pending_snapshot: int | None
    num_activations_sent: int
    num_resent: int
    num_duplicates: int
    num_fenced: int
    tie_stats: TieStats
