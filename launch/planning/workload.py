"""A run before it is cut: its config, and what goes through each unit of its network.

What a block would cost or take, wherever it were cut, is a function of a workload and the block.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from launch.config import ConfigError, RunConfig
from launch.planning.partition import Block, Sharing
from models.head_costs import HeadCost, count_head_cost
from models.heads import DEFAULT_HEAD_FEATURES, DEFAULT_HEAD_HIDDEN, HeadSpec
from models.network import Network, UnitTrace, trace_units
from models.numerics import Numerics
from models.objectives import Objective, load_objective
from models.unit_costs import UnitCost, count_unit_costs
from models.wire import Wire


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

    @property
    def numerics(self) -> Numerics:
        """How units compute."""
        config = self.config
        return Numerics(
            precision=config.precision,
            channels_last=config.channels_last,
            recompute=config.recompute,
            compile=config.compile,
        )

    @cached_property
    def sharing(self) -> Sharing:
        """Which units each edge shares."""
        return sharing_of(self.config, self.network)

    @cached_property
    def traces(self) -> list[UnitTrace]:
        """What goes through each unit for one image."""
        return trace_units(self.network, self.image_shape, self.numerics)

    @property
    def num_samples(self) -> int:
        """Samples in a step: both views of each image."""
        return 2 * self.config.batch_size

    def wire(self, edge: int, top: int) -> Wire:
        """How the edge between blocks `edge` and `edge` + 1 carries what is computed, if the unit
        `top` is the last below it."""
        return Wire(
            precision=self.config.wire_precision_of(edge),
            activation=getattr(torch, self.traces[top].output_dtype),
            rounds_ties=self.config.wire_ties,
        )

    @cached_property
    def objective(self) -> Objective:
        """The local loss of every block."""
        config = self.config
        return load_objective(
            config.objective, temperature=config.temperature, num_classes=self.num_classes
        )

    @cached_property
    def unit_costs(self) -> list[UnitCost]:
        """What each unit costs for one image."""
        return count_unit_costs(self.network, self.image_shape, self.numerics)

    def head(self, top: int, index: int) -> HeadSpec:
        """The head of block `index`, if it stood on the unit `top`."""
        return HeadSpec(
            name=self.config.head,
            in_shape=self.traces[top].output_shape,
            out_features=self.objective.head_features,
            depth=self.config.depth_of(index),
            block_index=index,
            hidden=self.config.head_hidden or DEFAULT_HEAD_HIDDEN,
            features=self.config.head_features or DEFAULT_HEAD_FEATURES,
        )

    def head_of(self, block: Block) -> HeadSpec:
        """The head that a block has on its last unit."""
        return self.head((*block.home, *block.guest)[-1], block.index)

    def head_cost(self, top: int, index: int) -> HeadCost:
        """What that head costs."""
        return count_head_cost(self.head(top, index), self.numerics)

    def head_cost_of(self, block: Block) -> HeadCost:
        """What the head costs that a block has."""
        return count_head_cost(self.head_of(block), self.numerics)


def sharing_of(config: RunConfig, network: Network) -> Sharing:
    """What a config shares of a network, wherever that is cut. Raises ConfigError."""
    overlap, stages = config.overlap, network.stages
    if overlap == "stage" and not stages:
        raise ConfigError(
            f"overlap stage is not allowed for model {network.name!r}, which has no stages; give"
            " a number of units"
        )
    if overlap is None:
        overlap = "stage" if stages else 1
    return Sharing(0 if config.method == "e2e" else overlap, stages=stages)
