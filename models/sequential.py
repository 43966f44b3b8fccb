"""The sequential reference: the same semantics as the workers', in one process and one loop.

Owns the order of a step over all blocks, and nothing else. It knows neither links nor processes;
what a distributed run computes must equal what this computes, bit for bit.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from models.block import Payload, Ties


class Step(Protocol):
    """One block's step, as models.block.LocalBlock has it."""

    def forward(self, step: int, incoming: Payload | None) -> Payload | None: ...
    def update(self, step: int) -> Ties: ...
    def apply(self, step: int, from_below: Payload | None, from_above: Payload | None) -> None: ...


def _nothing(step: int) -> None:
    del step


def train(
    blocks: Sequence[Step],
    *,
    num_steps: int,
    lag: int,
    after_step: Callable[[int], None] = _nothing,
) -> None:
    """Train all blocks, lowest first, for `num_steps` steps.

    At step t a block gets the tie of the block below as of t, and of the block above as of
    t - lag; before step `lag` that term is absent, and so is the term of a block's bad step.
    """
    history: deque[list[Ties]] = deque(maxlen=lag + 1)  # the ties of steps t - lag .. t
    for step in range(num_steps):
        activation = None
        ties = []
        for block in blocks:
            activation = block.forward(step, activation)
            ties.append(block.update(step))
        history.append(ties)
        late = history[0] if step >= lag else None
        for k, block in enumerate(blocks):
            from_below = ties[k - 1].up if k > 0 else None
            from_above = late[k + 1].down if late and k + 1 < len(blocks) else None
            block.apply(step, from_below, from_above)
        after_step(step)
