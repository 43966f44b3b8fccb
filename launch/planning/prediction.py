"""What a plan would give: rates of its blocks, and of the schedules that it stands against.

Owns the arithmetic. All of it is for links without latency and workers that never stall.
"""

import math
from dataclasses import dataclass

from launch.planning.costs import Costs
from launch.planning.memory import BlockMemory, block_memory
from launch.planning.partition import Block
from launch.planning.rates import EdgeRate, edge_rates
from launch.planning.resolved import Resolved


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Times are in the unit of the costs that they were made from, one step each.

    `step`: with cores for every worker; `step_here`: on `cores` of them; `one_process`: all
    blocks, one after another; `end_to_end`: the network under one loss. `end_to_end_memory` is
    that of one process with the whole batch, without what is there for restarts.
    """

    blocks: tuple[float, ...]
    edges: tuple[EdgeRate, ...]
    step: float
    step_here: float
    one_process: float
    end_to_end: float
    end_to_end_memory: BlockMemory
    cores: int

    @property
    def full_rate(self) -> float:
        """The share of the slowest block's rate that the ties and windows leave."""
        return max(self.blocks) / self.step


def predict(resolved: Resolved, costs: Costs, *, cores: int) -> Prediction:
    """Predict from costs; relative figures mean something whether they were measured or not."""
    config, partition = resolved.config, resolved.partition
    blocks = tuple(costs.of(block).step for block in partition.blocks)
    edges = tuple(edge_rates(resolved, costs))
    step = max(blocks) * max([1.0, *(edge.slowness for edge in edges)])
    whole = Block(
        index=partition.num_blocks - 1,
        home=range(partition.num_units),
        guest=range(partition.num_units, partition.num_units),
        lent=range(0),
    )
    return Prediction(
        blocks=blocks,
        edges=edges,
        step=step,
        step_here=max(step, sum(blocks) * config.threads / cores),
        one_process=math.fsum(blocks),
        end_to_end=costs.end_to_end(),
        end_to_end_memory=block_memory(resolved, whole),
        cores=cores,
    )
