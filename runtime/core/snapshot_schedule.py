"""At which step boundaries a worker saves its state, and where that is its part of a checkpoint.

Owns what is wanted and what has been taken in this generation. Knows nothing of what is saved.
"""

from runtime.core.account import Account
from runtime.core.messages import Snapshot
from runtime.core.plan import WorkerPlan


class SnapshotSchedule:
    """The snapshots of one worker in one generation. `pending` is the step of the one that is taken
    and not yet safe."""

    def __init__(self, plan: WorkerPlan) -> None:
        self.pending: int | None = None
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

    def will_be_due(self, step: int) -> bool:
        """Whether one will be due before `step`, which is not the end and not yet reached."""
        every = (self._plan.snapshot_every, self._plan.checkpoint_every)
        wanted = self._snapshot_wanted or self._checkpoint_wanted
        return wanted or any(_is_multiple(step, n) for n in every)

    def is_due(self, step: int, *, end: int, can_wait: bool) -> bool:
        """Whether a snapshot is due before `step`.

        `can_wait`: nothing is learned at this step, so that one behind it serves as well, unless
        it is for a checkpoint.
        """
        if not self._plan.snapshot_every:
            return False
        missing = self._is_checkpoint(step, end) and self._checkpoint_step != step
        wanted = self._snapshot_wanted and self._snapshot_step != step
        return missing or (wanted and not can_wait)

    def take(self, step: int, *, end: int, account: Account) -> Snapshot:
        """Note that the one before `step` is taken now, and return it; `account` is what the steps
        before came to, of which a copy is kept where timing decides it."""
        checkpoint = self._is_checkpoint(step, end)
        self._snapshot_wanted = self._checkpoint_wanted = False
        self.pending = self._snapshot_step = step
        if checkpoint:
            self._checkpoint_step = step
        counts = None if self._plan.free is None else account.copy()
        return Snapshot(step=step, checkpoint=checkpoint, account=counts)

    def _is_checkpoint(self, step: int, end: int) -> bool:
        return self._checkpoint_wanted or step == end


def _is_multiple(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
