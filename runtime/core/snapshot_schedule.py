"""At which step boundaries a worker saves its state, and which are its part of a checkpoint.

Owns what is asked for and what has been taken in this generation. Knows nothing of what is saved.
"""

from runtime.core.messages import Snapshot
from runtime.core.plan import WorkerPlan
from runtime.core.tie_stats import TieStats


class SnapshotSchedule:
    """The snapshots of one worker in one generation, which begins before `start_step`. `pending` is
    the step of the one that is taken and not yet durable."""

    def __init__(self, plan: WorkerPlan, *, start_step: int) -> None:
        self.pending: int | None = None
        self._plan = plan
        self._start_step = start_step
        self._is_asked = False
        self._snapshot_step: int | None = None  # of the latest one
        self._checkpoint_step: int | None = None

    def ask(self) -> None:
        """A neighbour wants one, at the next boundary."""
        self._is_asked = True

    def is_due(self, step: int, *, end: int) -> bool:
        """Whether a snapshot is due before `step`."""
        if not self._plan.snapshot_every:
            return False
        if self._is_checkpoint(step, end) and self._checkpoint_step != step:
            return True
        is_asked = self._is_asked and self._snapshot_step != step
        is_time = self._has_passed(self._plan.snapshot_every, self._snapshot_step, step)
        return is_asked or is_time

    def take(self, step: int, *, end: int, tie_stats: TieStats) -> Snapshot:
        """Note that the one before `step` is taken now, and return it; `tie_stats`
        are those of the steps before; if ties are free, the snapshot has a copy."""
        checkpoint = self._is_checkpoint(step, end)
        self._is_asked = False
        self.pending = self._snapshot_step = step
        if checkpoint:
            self._checkpoint_step = step
        counts = None if self._plan.free is None else tie_stats.copy()
        return Snapshot(step=step, checkpoint=checkpoint, tie_stats=counts)

    def _is_checkpoint(self, step: int, end: int) -> bool:
        is_time = self._has_passed(self._plan.checkpoint_every, self._checkpoint_step, step)
        return is_time or step == end

    def _has_passed(self, every: int, latest: int | None, step: int) -> bool:
        """Whether a multiple of `every` lies behind the latest one, up to `step`."""
        since = self._start_step if latest is None else latest
        return every > 0 and step // every > since // every
