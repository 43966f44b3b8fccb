"""A run that can start: its config, in which nothing is left open, and what that means.

Owns what that means; what decides it is launch.resolve's.
"""

from dataclasses import dataclass
from functools import cached_property

from launch.config import ResolvedConfig
from launch.planning.costs import Costs
from launch.planning.workload import Workload
from models.network import Network, UnitTrace, trace_units
from runtime.core.partition import Partition


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A run that can start: its resolved config, and what that means for network and data.

    `measured`: what the cuts were chosen by where that was measured, which no other process can
    find again. `link_note`: why the link is not the one that was asked for. `remarks`: what is odd
    about the data and the network, which are looked at here alone."""

    config: ResolvedConfig
    partition: Partition
    network: Network
    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    measured: Costs | None = None
    link_note: str | None = None
    remarks: tuple[str, ...] = ()

    @cached_property
    def traces(self) -> list[UnitTrace]:
        """What goes through each unit for one image."""
        return trace_units(self.network, self.image_shape)

    @cached_property
    def workload(self) -> Workload:
        """What blocks' costs and memory follow from."""
        return Workload(
            config=self.config,
            workers=self.config.workers,
            window=self.config.window,
            network=self.network,
            traces=self.traces,
            image_shape=self.image_shape,
            num_classes=self.num_classes,
        )
