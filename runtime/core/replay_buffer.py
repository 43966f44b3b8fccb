"""Which of the last batches a worker trains on again while the next one is late.

Owns the choice of decoupled greedy learning's buffer (arXiv 1901.08164): the least used, and of
those the newest. Knows nothing of the activations themselves.
"""


class ReplayBuffer:
    """The steps of the last `size` batches, and how often each was used again."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._uses: dict[int, int] = {}

    def __contains__(self, step: int) -> bool:
        return step in self._uses

    def add(self, step: int) -> None:
        """A batch was trained on for the first time; the oldest makes room for it."""
        if self._size:
            self._uses[step] = 0
            if len(self._uses) > self._size:
                del self._uses[min(self._uses)]

    def use(self) -> int | None:
        """The batch to train on again, which is then one that was used; None where none is kept."""
        if not self._uses:
            return None
        step = min(self._uses, key=lambda kept: (self._uses[kept], -kept))
        self._uses[step] += 1
        return step
