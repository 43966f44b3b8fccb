"""What the launcher says of the job in the environment: this rank's place in it.

Owns reading those variables. Must not import torch: every rank reads them before it does anything.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from launch.config import ConfigError

# What torchrun sets for each rank, as far as this project relies on it.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MARK = "TORCHELASTIC_RUN_ID"  # of torchrun alone
TELLING = ("RANK", "WORLD_SIZE")  # who has one of these was meant to be a rank of a job


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """One rank of a job that torchrun has started."""

    rank: int
    world_size: int
    local_world_size: int

    @property
    def is_one_host(self) -> bool:
        """Whether all ranks run on this host."""
        return self.local_world_size == self.world_size

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "Launcher | None":
        """What torchrun says; None without it. Raises ConfigError for half an environment, with
        which each rank would train a job of its own."""
        present = [name for name in TELLING if name in environ]
        if MARK not in environ and not present:
            return None
        missing = [name for name in (*NAMES, MARK) if name not in environ]
        if missing:
            present = present or [MARK]
            found = " ".join(f"{name}={environ[name]}" for name in present)
            raise ConfigError(
                f"the environment has a launcher's {found}, but not its {' '.join(missing)}; start"
                f" with torchrun, or unset {' '.join(present)} to run all workers from one command"
            )
        rank, world_size, local_world_size = (
            _whole(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        )
        if not 0 <= rank < world_size:
            raise ConfigError(
                f"RANK={rank} is not below WORLD_SIZE={world_size}; start with torchrun"
            )
        return cls(rank=rank, world_size=world_size, local_world_size=local_world_size)


def _whole(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise ConfigError(
            f"{name}={environ[name]!r} in the environment is not a whole number; unset it, or start"
            " with torchrun"
        ) from None
