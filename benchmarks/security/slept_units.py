"""The network of the runs that are attacked: small units that sleep as they compute.

Owns nothing else. Their weights are learned as any, so a run's digest says whether anybody meddled;
but their time is slept, so that the rate hardly depends on how many cores are free.
"""

import time

from torch import Tensor, nn

UNIT_S = 0.05
"""What a unit's forward takes; a block with home and guest has two a step."""
WIDTH = 256  # as many as the digits have pixels, so that all units are alike
NUM_UNITS = 4


class SleptUnit(nn.Module):
    """A dense layer that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(UNIT_S)
        y: Tensor = self.layer(x.flatten(1)).relu()
        return y


def build() -> nn.Sequential:
    """The network for images of 16 x 16 (the digits as they are read); each child is a unit."""
    return nn.Sequential(*(SleptUnit() for _ in range(NUM_UNITS)))
