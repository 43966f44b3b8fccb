"""What a run finds around itself: this machine, and what the launcher says of the job."""

import math
from dataclasses import dataclass

import psutil
import torch

from launch.cores import usable_cores
from launch.launcher import Launcher
from models.device import processor


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the launcher: `world_size` is torchrun's, None if there is none;
    `has_nccl` says that torch was built with it, `processor` what of the machine bits depend on."""

    world_size: int | None
    local_world_size: int | None
    cores: int
    gpus: int
    has_nccl: bool = False
    processor: str = ""
    memory_bytes: float = math.inf

    @property
    def is_one_host(self) -> bool:
        """Whether all workers run on this host."""
        return self.local_world_size in (None, self.world_size)

    @classmethod
    def from_process(cls) -> "Environment":
        """Read this process's environment variables, the cores it may use and the GPUs it sees.
        Raises ConfigError for half a launcher's variables."""
        launcher = Launcher.from_environ()
        return cls(
            world_size=None if launcher is None else launcher.world_size,
            local_world_size=None if launcher is None else launcher.local_world_size,
            cores=usable_cores(),
            gpus=torch.cuda.device_count(),
            has_nccl=torch.distributed.is_nccl_available(),
            processor=processor(),
            memory_bytes=psutil.virtual_memory().total,
        )
