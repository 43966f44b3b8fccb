"""What a run finds around itself: its machines, and what the launcher says of the job."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from launch.cores import usable_cores
from launch.gpus import are_mig, visible_gpus
from launch.launcher import Launcher
from models import host_memory
from models.device import processor
from runtime.host import this_host
from runtime.program import Facts


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the launcher: `world_size` is the launcher's, None if there is none;
    `has_nccl` says that torch was built with it, `has_mig` that GPUs are instances of MIG,
    `processor` what of the machine bits depend on.

    Of several hosts it has the least of each, as if all were like that: `local_world_size` ranks
    share `cores`, `gpus` and `memory_bytes`. `remarks` say how they differ.
    """

    world_size: int | None
    local_world_size: int | None
    cores: int
    gpus: int
    has_nccl: bool = False
    has_mig: bool = False
    processor: str = ""
    memory_bytes: float = math.inf
    remarks: tuple[str, ...] = ()

    @property
    def is_one_host(self) -> bool:
        """Whether all workers run on this host, as far as the launcher says."""
        return self.local_world_size in (None, self.world_size)

    @classmethod
    def from_process(cls) -> "Environment":
        """Read this process's environment variables, the cores it may use and the GPUs it sees.
        Raises ConfigError for half a launcher's variables."""
        launcher = Launcher.from_environ()
        facts = dict(facts_here())
        del facts["host"], facts["cpus"]
        return cls(
            world_size=None if launcher is None else launcher.world_size,
            local_world_size=None if launcher is None else launcher.local_world_size,
            **facts,
        )

    @classmethod
    def of_ranks(cls, ranks: Sequence[Facts]) -> "Environment":
        """What the ranks of a job have found, each on its own host (`facts_here`)."""
        num_ranks = Counter(facts["host"] for facts in ranks)
        most = max(num_ranks.values())
        processors = list(dict.fromkeys(facts["processor"] for facts in ranks))
        differ = (
            f"the hosts have processors of several kinds ({'; '.join(processors)}): bits depend on"
            " which of them has which block"
        )

        def least(name: str) -> float:
            """Of the shares that a rank has of its host."""
            return min(float(facts[name]) / num_ranks[facts["host"]] for facts in ranks)

        return cls(
            world_size=len(ranks),
            local_world_size=most,
            cores=most * min(_cores_each(ranks, host) for host in num_ranks),
            gpus=int(most * least("gpus")),
            has_nccl=all(facts["has_nccl"] for facts in ranks),
            has_mig=any(facts["has_mig"] for facts in ranks),
            processor=processors[0],
            memory_bytes=most * least("memory_bytes"),
            remarks=(differ,) if len(processors) > 1 else (),
        )


def _cores_each(ranks: Sequence[Facts], host: str) -> int:
    """The cores of each rank on a host. A launcher may bind ranks to cores of their own, as srun
    does, or let them share; a quota that leaves fewer than they may run on is for all of them."""
    here = [facts for facts in ranks if facts["host"] == host]
    fewest = min(facts["cores"] for facts in here)
    has_quota = any(facts["cores"] < len(facts["cpus"]) for facts in here)
    num_cores = fewest if has_quota else len({cpu for facts in here for cpu in facts["cpus"]})
    return max(1, num_cores // len(here))


def facts_here() -> Facts:
    """What a rank says of its machine to rank 0."""
    gpus = visible_gpus()
    return {
        "host": this_host(),
        "cores": usable_cores(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "gpus": len(gpus),
        "has_mig": are_mig(gpus),
        "has_nccl": torch.distributed.is_nccl_available(),
        "processor": processor(),
        "memory_bytes": host_memory.total_bytes(),
    }
