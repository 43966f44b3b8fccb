"""At which step boundaries a worker saves its state, and where that is its part of a checkpoint.

Owns what is wanted and what has been taken in this generation. Knows nothing of what is saved.
"""

from runtime.core.messages import Snapshot
from runtime.core.plan import WorkerPlan


class SnapshotSchedule:
    """The snapshots of one worker in one generation."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._snapshot_wanted = False
        self._checkpoint_wanted = False
        self._snapshot_step: int | None = None  # of the latest one
        self._checkpoint_step: int | None = None

    def ask(self) -> None:
        """A neighbour wants one, at the next boundary."""
        self._snapshot_wanted = True

    def reached(self, step: int) -> None:
        """The worker is before `step`, where one may be due."""
        self._snapshot_wanted |= _is_multiple(step, self._plan.snapshot_every)
        self._checkpoint_wanted |= _is_multiple(step, self._plan.checkpoint_every)

    def take_due(self, step: int, *, end: int, can_wait: bool) -> Snapshot | None:
        """The snapshot that is due before `step`, which is then taken; None where none is.

        `can_wait`: nothing is learned at this step, so that one behind it serves as well, unless
        it is for a checkpoint.
        """
        checkpoint = self._checkpoint_wanted or step == end
        if can_wait and not checkpoint:
            return None
        wanted = self._snapshot_wanted and self._snapshot_step != step
        missing = checkpoint and self._checkpoint_step != step
        self._snapshot_wanted = self._checkpoint_wanted = False
        if not self._plan.snapshot_every or not (wanted or missing):
            return None
        self._snapshot_step = step
        if checkpoint:
            self._checkpoint_step = step
        return Snapshot(step=step, checkpoint=checkpoint)


def _is_multiple(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
