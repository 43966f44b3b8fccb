"""What a run finds around itself: this machine, and what the launcher says of the job."""

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the launcher: `world_size` is torchrun's, None where there is none;
    `has_nccl` says that torch was built with it."""

    world_size: int | None
    local_world_size: int | None
    cores: int
    gpus: int
    has_nccl: bool = False

    @property
    def is_one_host(self) -> bool:
        """Whether all workers run on this host."""
        return self.local_world_size in (None, self.world_size)

    @classmethod
    def from_process(cls) -> "Environment":
        """Read this process's environment variables, its allowed cores and the GPUs it sees."""
        world_size, local_world_size = (
            int(os.environ[name]) if name in os.environ else None
            for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
        )
        return cls(
            world_size=world_size,
            local_world_size=local_world_size,
            cores=len(os.sched_getaffinity(0)),
            gpus=torch.cuda.device_count(),
            has_nccl=torch.distributed.is_nccl_available(),
        )
