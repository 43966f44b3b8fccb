"""A run that can start: its config, in which nothing is left open, and what that means.

Owns what that means; what decides it is launch.resolve's.
"""

from dataclasses import dataclass

from launch.config import ResolvedConfig
from launch.planning.costs import Costs
from launch.planning.partition import Partition
from launch.planning.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Resolved(Workload):
    """A workload that is cut, with its resolved config.

    `measured`: what the cuts were chosen by, if that was measured, which no other process can
    find again. `source_s`: what block 0 takes for a step's batch and views, and `learning_s` for
    what it learns of them, if that was measured for a plan.
    `remarks`: what is odd about the data and the network, which are looked at here alone.
    `workers_per_host`: the most that share one, `cores` and `gpus` those that such a host has."""

    config: ResolvedConfig
    partition: Partition
    num_train: int
    measured: Costs | None = None
    source_s: float | None = None
    learning_s: float | None = None
    remarks: tuple[str, ...] = ()
    workers_per_host: int = 1
    cores: int = 1
    gpus: int = 0
