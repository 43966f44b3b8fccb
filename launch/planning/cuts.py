"""Where a run's network is cut: as the user says, as its architecture is, or balanced.

Owns the choice. A balanced cut is the one whose slowest block, guest and head included, is
fastest, of those whose workers fit the user's bound on memory.
"""

import math
from dataclasses import replace

from launch.config import ConfigError, show
from launch.planning.costs import Costs, counted_costs
from launch.planning.memory import block_memory
from launch.planning.partition import Block, Partition, balanced_cuts
from launch.planning.unit_times import measured_costs
from launch.planning.workload import Workload


def choose_cuts(
    workload: Workload, *, device: str, threads: int, source_s: float
) -> tuple[tuple[int, ...], Costs | None]:
    """The first unit of each home, and the costs that they were chosen by if these were
    measured; `source_s` is what block 0 takes for its batch. Raises ValueError if nothing fits,
    ConfigError if what is given doesn't."""
    config, workers = workload.config, workload.workers
    if config.method == "e2e":
        return (0,), None
    if isinstance(config.cuts, tuple):
        if len(config.cuts) != workers:
            raise ConfigError(
                f"cuts {show(config.cuts)} make {len(config.cuts)} blocks for {workers} workers; "
                f"give {workers} cuts, or leave them out"
            )
        return config.cuts, None
    if config.cuts is None and (own := _own_cuts(workload)) is not None:
        return own, None
    costs = None
    if config.cuts == "profiled":
        costs = measured_costs(workload, device=device, threads=threads)
        costs = replace(costs, source=source_s)
    return _balanced(workload, costs or counted_costs(workload)), costs


def check_memory(workload: Workload, partition: Partition) -> None:
    """Raise ConfigError if a worker would take more than the user's bound."""
    bound_mb = workload.config.max_memory_mb
    if bound_mb is None:
        return
    needed_mb = [memory_mb(workload, block) for block in partition.blocks]
    if max(needed_mb) > bound_mb:
        auto = ", --cuts auto" if partition.num_blocks > 1 else ""
        raise ConfigError(
            f"max-memory-mb {bound_mb} is too little: worker {needed_mb.index(max(needed_mb))}"
            f" takes about {max(needed_mb):.1f} MB; give --max-memory-mb"
            f" {math.ceil(max(needed_mb))}{auto}, or a smaller --batch-size"
        )


def memory_mb(workload: Workload, block: Block) -> float:
    """What a block's worker takes, about, in megabytes."""
    return block_memory(workload, block).total / 1e6


def _balanced(workload: Workload, costs: Costs) -> tuple[int, ...]:
    return balanced_cuts(
        len(workload.traces),
        workload.workers,
        workload.sharing,
        cost=lambda block: costs.of(block).step,
        memory_mb=lambda block: memory_mb(workload, block),
        max_memory_mb=workload.config.max_memory_mb,
    )


def _own_cuts(workload: Workload) -> tuple[int, ...] | None:
    """The architecture's own cuts into as many blocks as there are workers, if it has such, they
    are long enough for the overlap, and their blocks small enough for the memory."""
    network, bound = workload.network, workload.config.max_memory_mb
    for cuts in network.cuts:
        if len(cuts) == workload.workers:
            try:
                partition = Partition.shared(
                    num_units=len(network.units), cuts=cuts, sharing=workload.sharing
                )
            except ValueError:  # a home is shorter than what is to be shared of it
                return None
            needed_mb = (memory_mb(workload, block) for block in partition.blocks)
            return cuts if all(bound is None or mb <= bound for mb in needed_mb) else None
    return None
