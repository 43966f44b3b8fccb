"""What blocks cost, wherever the network is cut: counted in FLOPs, or measured in seconds.

Owns how a block's cost comes of its units' and its head's. Counted costs are a function of the
config alone. Left out of them are the loss, the optimizer and the ties, which are small, and that
a FLOP takes longer in one layer than in another, which is not: see launch.planning.unit_times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from launch.planning.partition import Block
from launch.planning.workload import Workload
from models.ties import RULES


@dataclass(frozen=True)
class Cost:
    """One unit or head in one step of 2B samples: its forward, and its forward and backward."""

    forward: float
    step: float


@dataclass(frozen=True, kw_only=True)
class BlockCost:
    """A block's home's forward, before which nothing goes up, and its whole step; both with the
    source if it is block 0's."""

    home_forward: float
    step: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """`heads[unit][k]` is the head of block k standing on that unit, and `guests` are the units as
    they cost in a guest, which not every tie trains. In seconds if measured, else in FLOPs: then
    figures mean something in relation to each other only. `source`: what block 0 takes for its
    batch and the views of it, before its forward; 0 if counted."""

    measured: bool
    units: tuple[Cost, ...]
    guests: tuple[Cost, ...]
    heads: tuple[tuple[Cost, ...], ...]
    source: float = 0.0

    def of(self, block: Block) -> BlockCost:
        """A block's cost: home, guest and head, and the source if it is block 0."""
        home = [self.units[unit] for unit in block.home]
        guest = [self.guests[unit] for unit in block.guest]
        head = self.heads[(*block.home, *block.guest)[-1]][block.index]
        source = 0.0 if block.index else self.source
        return BlockCost(
            home_forward=source + sum(unit.forward for unit in home),
            step=source + sum(part.step for part in (*home, *guest, head)),
        )

    def end_to_end(self) -> float:
        """One process that trains the network from one loss, under the top block's head."""
        return self.source + sum(unit.step for unit in self.units) + self.heads[-1][-1].step

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Costs:
        def read(costs: Iterable[dict[str, float]]) -> tuple[Cost, ...]:
            return tuple(Cost(**cost) for cost in costs)

        heads = tuple(read(row) for row in values["heads"])
        return cls(
            measured=values["measured"],
            units=read(values["units"]),
            guests=read(values["guests"]),
            heads=heads,
            source=values["source"],
        )


def counted_costs(workload: Workload) -> Costs:
    """Count FLOPs: a backward is two forwards, one for the weights and one for the input.

    The network's first unit has no gradient for its input, the image, and so is counted twice
    rather than three times; likewise a guest that is not trained has none for its weights. (Nor
    has a home's first layer; but what that saves is less than a sixth of a residual block, and
    about the same in every home.)
    """
    num = workload.num_samples
    again = 1 if workload.numerics.recompute else 0  # a forward more
    units = [
        Cost(num * unit.flops, num * unit.flops * ((3 if index else 2) + again))
        for index, unit in enumerate(workload.unit_costs)
    ]
    guests = units
    if not RULES[workload.config.tie].trains_guest:
        guests = [Cost(unit.forward, unit.forward * (2 + again)) for unit in units]
    heads = []
    for top in range(len(workload.traces)):
        row = [workload.head_cost(top, k).flops for k in range(workload.workers)]
        heads.append(tuple(Cost(num * flops, 3 * num * flops) for flops in row))
    return Costs(measured=False, units=tuple(units), guests=tuple(guests), heads=tuple(heads))
