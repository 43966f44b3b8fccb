"""Where a run's network is cut: as the user says, at its own stages, or balanced.

Owns the choice. A balanced cut is the one whose slowest block, guest and head included, is
fastest, of those whose workers fit the user's bound on memory.
"""

import math

from launch.config import ConfigError, show
from launch.planning.costs import Costs, counted_costs
from launch.planning.memory import block_memory
from launch.planning.partition import Block, Partition, balanced_cuts
from launch.planning.unit_times import measured_costs
from launch.planning.workload import Workload


def choose_cuts(
    workload: Workload, *, device: str, threads: int
) -> tuple[tuple[int, ...], Costs | None]:
    """The first unit of each home, and the costs that they were chosen by if these were
    measured. Raises ValueError if nothing fits, ConfigError if what is given doesn't."""
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
    if config.cuts is None and _stages_serve(workload):
        return workload.network.stages, None
    costs = None
    if config.cuts == "profiled":
        costs = measured_costs(workload, device=device, threads=threads)
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
        workload.config.overlap,
        cost=lambda block: costs.of(block).step,
        memory_mb=lambda block: memory_mb(workload, block),
        max_memory_mb=workload.config.max_memory_mb,
    )


def _stages_serve(workload: Workload) -> bool:
    """Whether the architecture's own stages are as many as the workers, long enough for the
    overlap, and small enough for the memory."""
    config, network = workload.config, workload.network
    num_units = len(network.units)
    if len(network.stages) != workload.workers:
        return False
    if config.overlap > Partition(num_units=num_units, cuts=network.stages, overlap=0).max_overlap:
        return False
    stages = Partition(num_units=num_units, cuts=network.stages, overlap=config.overlap)
    bound = math.inf if config.max_memory_mb is None else config.max_memory_mb
    return all(memory_mb(workload, block) <= bound for block in stages.blocks)
