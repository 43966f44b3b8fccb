"""Every test begins with the same global generator; and a factory of small blocks that are cut."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from launch.planning.partition import Partition, Sharing
from models.block import Learning, LocalBlock
from models.heads import HeadSpec
from models.network import Network, Unit, trace_units
from models.objectives import NTXent
from models.wire import EXACT

IMAGE = (1, 2, 2)
BATCH = 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def unit(name: str, *layers: Callable[[], nn.Module]) -> Unit:
    return Unit(name=name, prefix=f"{name}.", build=lambda: nn.Sequential(*(f() for f in layers)))


# With buffers to spoil and draws to repeat; two units without BatchNorm stand on its two sides.
FIVE = Network(
    name="five",
    units=(
        unit("a", nn.Flatten, lambda: nn.Linear(4, 3), lambda: nn.BatchNorm1d(3), nn.Tanh),
        unit("b", lambda: nn.Linear(3, 3), lambda: nn.BatchNorm1d(3), lambda: nn.Dropout(0.3)),
        unit("c", lambda: nn.Linear(3, 3), nn.Tanh),
        unit("d", lambda: nn.Linear(3, 3), lambda: nn.BatchNorm1d(3), lambda: nn.Dropout(0.3)),
        unit("e", lambda: nn.Linear(3, 3), nn.Tanh),
    ),
)
TRACES = trace_units(FIVE, IMAGE)


def source(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(BATCH, *IMAGE, generator=generator)
    noise = 0.05 * torch.rand(2 * BATCH, *IMAGE, generator=generator)
    return images.repeat(2, 1, 1, 1) + noise, torch.arange(BATCH) % 2


@pytest.fixture
def cut_blocks():
    """Make the blocks of a cut of the units a .. e; `poisoned` is (block, step) pairs, `wires` the
    edges', lowest first, or none.

    One thread, which is faster for layers of three features.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def make(
        cuts=(0, 2),
        overlap=1,
        *,
        tie="none",
        depth=1,
        poisoned=(),
        objective=None,
        wires=(),
        network=FIVE,
        **changes,
    ) -> list[LocalBlock]:
        figures = {"alpha": 0.25, "optimizer": "adamw", "lr": 0.05, "weight_decay": 0.01}
        figures |= {"schedule": "cosine", "warmup_steps": 1, "num_steps": 40}
        learning = Learning(tie=tie, **(figures | {"seed": 1} | changes))
        sharing = Sharing(overlap)
        blocks = Partition.shared(num_units=5, cuts=cuts, sharing=sharing).blocks
        return [
            LocalBlock(
                network,
                home=block.home,
                guest=block.guest,
                lent=blocks[k - 1].guest if k else range(0),
                learning=replace(
                    learning,
                    wire_below=wires[k - 1] if wires and k else EXACT,
                    wire_above=wires[k] if k < len(wires) else EXACT,
                ),
                objective=objective or NTXent(0.5),
                num_classes=2,
                head=HeadSpec(
                    in_shape=TRACES[(*block.home, *block.guest)[-1]].output_shape,
                    out_features=objective.head_features if objective else None,
                    depth=depth,
                    block_index=k,
                ),
                home_shape=TRACES[block.home[-1]].output_shape,
                source=None if k else source,
                poisoned=frozenset(step for at, step in poisoned if at == k),
            )
            for k, block in enumerate(blocks)
        ]

    yield make
    torch.set_num_threads(threads)
