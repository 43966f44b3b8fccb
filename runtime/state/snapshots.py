"""Hot snapshots of a worker's block, in memory that outlives the worker.

Owns the order in which a snapshot is taken. The block computes on one state (live_state.py), and a
copy of it lies beside. At any time one of the two is whole: the live state while the copy is
written, for it stands still then; the copy while a step changes the live state.
"""

from collections.abc import Callable, Mapping

import safetensors.torch
from torch import Tensor

from runtime.state.image import read_image, write_image
from runtime.state.live_state import LiveState, whole_state


class Snapshots:
    """A worker's live state and the copy of it. A copy that a death cut short is made again."""

    def __init__(self, *, live: str, copy: str) -> None:
        self._copy = copy
        found = whole_state(live)
        if found is not None:
            step, pieces = found
            write_image(copy, step, pieces)
        self._live = LiveState(live)

    def take(
        self,
        step: int,
        state: Mapping[str, Tensor],
        *,
        halfway: Callable[[], None] = lambda: None,
    ) -> None:
        """Store the state before `step`, which nobody may change meanwhile. The tensors' data may
        move (see LiveState.hold). `halfway` is called in the midst of the copy."""
        pieces = self._live.hold(state)
        self._live.mark_whole(step)
        write_image(self._copy, step, pieces, halfway=halfway)
        self._live.mark_changing()

    def latest(self) -> tuple[int, dict[str, Tensor]] | None:
        """The newest snapshot, and before which step; None if there is none."""
        image = read_image(self._copy)
        if image is None:
            return None
        step, content = image
        return step, safetensors.torch.load(bytes(content))
