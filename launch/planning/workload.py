"""A run before it is cut: its config, and what goes through each unit of its network.

What a block would cost or take, wherever it were cut, is a function of a workload and the block.
"""

from dataclasses import dataclass
from functools import cached_property

from launch.config import RunConfig
from launch.planning.partition import Block
from models.heads import DEFAULT_HEAD_FEATURES, HeadTrace, trace_head
from models.network import Network, UnitTrace, trace_units
from models.objectives import load_objective
from models.unit_costs import UnitCost, count_unit_costs


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`config` may leave its cuts open, and what follows from them, but not its workers and its
    window. `image_shape` is (C, H, W)."""

    config: RunConfig
    network: Network
    image_shape: tuple[int, int, int]
    num_classes: int

    @property
    def workers(self) -> int:
        """The number of blocks."""
        assert self.config.workers is not None
        return self.config.workers

    @property
    def window(self) -> int:
        """Activations in flight on an edge."""
        assert self.config.window is not None
        return self.config.window

    @cached_property
    def traces(self) -> list[UnitTrace]:
        """What goes through each unit for one image."""
        return trace_units(self.network, self.image_shape)

    @property
    def num_samples(self) -> int:
        """Samples in a step: both views of each image."""
        return 2 * self.config.batch_size

    @cached_property
    def head_features(self) -> int:
        """How wide the objective wants the heads' outputs."""
        config = self.config
        objective = load_objective(
            config.objective, temperature=config.temperature, num_classes=self.num_classes
        )
        return objective.head_features or DEFAULT_HEAD_FEATURES

    @cached_property
    def unit_costs(self) -> list[UnitCost]:
        """What each unit costs for one image."""
        return count_unit_costs(self.network, self.image_shape)

    def head(self, top: int, index: int) -> HeadTrace:
        """The head of block `index`, if it stood on the unit `top`."""
        return trace_head(
            in_shape=self.traces[top].output_shape,
            depth=self.config.depth_of(index),
            out_features=self.head_features,
        )

    def head_of(self, block: Block) -> HeadTrace:
        """The head that a block has on its last unit."""
        return self.head((*block.home, *block.guest)[-1], block.index)
