"""How a worker's state is made durable, and where a new generation takes it up.

Owns what a snapshot and a part of a checkpoint hold: the block's state, and in a part also the
downward ties that its receiver has not used up. Both are written to memory of the keeper's.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from runtime.core.plan import Stream, WorkerPlan
from runtime.core.tie_stats import TieStats
from runtime.state.image import read_image, write_image
from runtime.state.retention import Retention
from runtime.state.safetensors_file import joined
from runtime.state.snapshots import Snapshots
from runtime.state.status_page import Field, MemoryPaths, Page

MESSAGE = "message/"  # what follows: stream, step, index of the tensor
TIE_STATS = "tie-stats"
KEEPER_TIMEOUT_S = 600.0  # for the checkpoint before this one to reach its storage
POLL_S = 0.01
PLACES = 2  # for a snapshot, and for a part of a checkpoint on its way to the disk


class OutOfRoom(Exception):
    """What must be retained for other generations takes more memory than the user allows."""


class Saver:
    """Saves one worker's state: `take` at a step boundary, on the thread that computes, and
    `save_part` on any other, before the next `take`."""

    def __init__(
        self,
        memory: MemoryPaths,
        page: Page,
        retention: Retention,
        plan: WorkerPlan,
        *,
        announce: Callable[[], None],
        copying: Callable[[int], None],
        between: Callable[[int], None],
        tell: Callable[[str], None],
        max_bytes: float,
    ) -> None:
        """`announce` wakes the keeper. Two places where a fault can strike: `copying` is called in
        the midst of a snapshot's copy, `between` when a snapshot is taken and is no part yet.
        `tell` tells the user that a part is left out.
        `max_bytes` bounds all that is retained: messages, a snapshot and a part of a checkpoint."""
        self._memory = memory
        self._snapshots = Snapshots(live=memory.live, copy=memory.snapshot)
        self._page = page
        self._retention = retention
        self._plan = plan
        self._announce = announce
        self._copying = copying
        self._between = between
        self._tell = tell
        self._max_bytes = max_bytes

    def take_up(self) -> tuple[int, dict[str, Tensor]] | None:
        """The newest snapshot of the generations before, and its step. If they have died before
        it was a part of a checkpoint too, it is now."""
        found = self._snapshots.latest()
        if found is not None and self._page[Field.CHECKPOINT_DUE] == found[0] + 1:
            self.save_part(found[0])
        return found

    def take(self, step: int, state: Mapping[str, Tensor], *, checkpoint: bool = False) -> None:
        """Store the state before `step`; with `checkpoint` a `save_part` must follow. Call it when
        every message made before `step` is retained. The tensors' data may move (see
        runtime.state.live_state). Raises OutOfRoom."""
        self.check_room(sum(tensor.nbytes for tensor in state.values()))
        if checkpoint:
            self._page[Field.CHECKPOINT_DUE] = step + 1
        self._snapshots.take(step, state, halfway=partial(self._copying, step))

    def save_part(self, step: int) -> None:
        """Make the newest snapshot, which is of the state before `step`, a part of a checkpoint
        too, unless an earlier generation has. Call it when no message made after `step` is
        retained: it may have the place of one that belongs to the part. Waits up to
        KEEPER_TIMEOUT_S for the part before it to reach its storage; after that this one is left
        out."""
        self._between(step)
        if self._page[Field.CHECKPOINT] != step + 1:
            if not self._await_keeper():
                self._page[Field.CHECKPOINT_DUE] = 0
                self._tell(
                    f"the checkpoint at step {step} was not written: its storage has not taken the"
                    f" one before in {KEEPER_TIMEOUT_S:.0f} s; training goes on; give"
                    " --checkpoint-every more steps, or a faster --checkpoint-dir"
                )
                return
            image = read_image(self._memory.snapshot)
            assert image is not None, "a part is made of a snapshot"
            assert image[0] == step, (image[0], step)
            write_image(self._memory.checkpoint, step, joined(image[1], self._messages(step)))
            self._page[Field.CHECKPOINT] = step + 1
        self._announce()  # each time: a generation before may have died before it could

    def check_room(self, state_bytes: int) -> None:
        """Raise OutOfRoom unless copies of that size fit beside the retained messages."""
        needed = PLACES * state_bytes + self._retention.size_bytes
        if needed > self._max_bytes:
            raise OutOfRoom(
                f"retain-mb {self._max_bytes / 1e6:.0f} is too little: this block's snapshot and a"
                f" part of a checkpoint ({PLACES} times {state_bytes / 1e6:.1f} MB) and what it"
                f" retains of its messages take {needed / 1e6:.1f} MB; give --retain-mb"
                f" {math.ceil(needed / 1e6)}"
            )

    def _await_keeper(self) -> bool:
        """Wait until the part before this one is stored, for its memory is used again; whether it
        is."""
        deadline_s = time.monotonic() + KEEPER_TIMEOUT_S
        while self._page[Field.CHECKPOINT_DONE] < self._page[Field.CHECKPOINT]:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(POLL_S)
        return True

    def _messages(self, step: int) -> dict[str, Tensor]:
        """The downward ties that the worker below uses from `step` on, and absent ones empty."""
        down = Stream.TIE_DOWN
        found: dict[str, Tensor] = {}
        if down not in self._plan.outgoing:
            return {}
        for late in range(max(0, step - self._plan.lag), step):
            name = f"{MESSAGE}{down.value}/{late}"
            payload = self._retention.get(down, late) or (torch.empty(0),)
            found |= {f"{name}/{i}": tensor for i, tensor in enumerate(payload)}
        return found


def split_part(part: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, list[Tensor]]]:
    """Divide a part of a checkpoint into the block's state and the downward ties by step."""
    state = {name: tensor for name, tensor in part.items() if not name.startswith(MESSAGE)}
    ties: dict[int, dict[int, Tensor]] = {}
    for name in part.keys() - state.keys():
        _, _, step, index = name.split("/")
        ties.setdefault(int(step), {})[int(index)] = part[name]
    return state, {step: [tensors[i] for i in sorted(tensors)] for step, tensors in ties.items()}


def with_tie_stats(state: Mapping[str, Tensor], tie_stats: TieStats) -> dict[str, Tensor]:
    """A block's state, and beside it what its steps came to."""
    return {**state, TIE_STATS: torch.tensor(tie_stats.as_rows())}


def split_tie_stats(saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], TieStats]:
    """Take apart what `with_tie_stats` joined; if there is none, it is an empty one."""
    state = dict(saved)
    rows = state.pop(TIE_STATS, torch.empty(0, 3))
    return state, TieStats.from_rows(rows.tolist())


def put_back(ties: Mapping[int, list[Tensor]], retention: Retention) -> None:
    """Retain a checkpoint's downward ties as if they had just been sent."""
    for step, tensors in ties.items():
        absent = len(tensors) == 1 and tensors[0].numel() == 0
        retention.put(Stream.TIE_DOWN, step, None if absent else tuple(tensors))
