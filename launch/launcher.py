"""What the launcher says of the job in the environment: this rank's place in it.

Owns reading those variables, torchrun's and those of any other launcher that sets RANK, WORLD_SIZE
and MASTER_ADDR for each rank. Must not import torch: every rank reads them before it does anything.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from launch.config import ConfigError
from runtime.host import is_loopback, this_host
from runtime.program import Member, StoreAddress

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR")  # what every launcher of ranks sets
TORCHRUN = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")  # and what torchrun sets besides
TORCHRUN_ID = "TORCHELASTIC_RUN_ID"  # of torchrun alone
TELLING = ("RANK", "WORLD_SIZE")  # who has one of these was meant to be a rank of a job
USUAL_PORT = 29500  # of MASTER_ADDR, as torch has it
STARTED = 19  # of the fields of /proc/PID/stat behind the name


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """One rank of a job. `local_rank` and `local_world_size` are None if the launcher does not tell
    which ranks share a host; `hosts_store` says that it hosts the store at `master`."""

    rank: int
    world_size: int
    master_addr: str
    master_port: int
    local_rank: int | None = None
    local_world_size: int | None = None
    hosts_store: bool = False
    is_torchrun: bool = False

    def __post_init__(self) -> None:
        try:
            self.master_addr.encode("idna")  # as each look-up of it does
        except UnicodeError as error:
            raise ConfigError(
                f"MASTER_ADDR={self.master_addr!r} in the environment can be no host's name"
                f" ({error.__cause__ or error}); set it to the name or address of rank 0's host"
            ) from error

    @property
    def is_one_host(self) -> bool | None:
        """Whether all ranks run on this host; None if that is not known."""
        if self.world_size == 1 or is_loopback(self.master_addr):
            return True
        return None if self.local_world_size is None else self.local_world_size == self.world_size

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "Launcher | None":
        """What the launcher says; None without one. Raises ConfigError for half an environment,
        with which each rank would train a job of its own."""
        present = [name for name in TELLING if name in environ]
        if TORCHRUN_ID not in environ and not present:
            return None
        needed = (*NAMES, *TORCHRUN) if TORCHRUN_ID in environ else NAMES
        missing = [name for name in needed if name not in environ]
        if missing:
            present = present or [TORCHRUN_ID]
            found = " ".join(f"{name}={environ[name]}" for name in present)
            raise ConfigError(
                f"the environment has a launcher's {found}, but not its {' '.join(missing)}; set"
                f" what is missing, start with torchrun, or unset {' '.join(present)} to run all"
                " workers from one command"
            )
        launcher = cls(
            rank=_whole(environ, "RANK"),
            world_size=_whole(environ, "WORLD_SIZE"),
            master_addr=environ["MASTER_ADDR"],
            master_port=_whole(environ, "MASTER_PORT", USUAL_PORT),
            local_rank=_whole(environ, "LOCAL_RANK") if "LOCAL_RANK" in environ else None,
            local_world_size=(
                _whole(environ, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environ else None
            ),
            hosts_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            is_torchrun=TORCHRUN_ID in environ,
        )
        if not 0 <= launcher.rank < launcher.world_size:
            raise ConfigError(
                f"RANK={launcher.rank} is not below WORLD_SIZE={launcher.world_size}; number the"
                " ranks from 0, or start with torchrun"
            )
        return launcher

    def member(self) -> Member:
        """This rank's place, as the runtime wants it."""
        return Member(
            rank=self.rank,
            num_ranks=self.world_size,
            store=StoreAddress(
                host=self.master_addr, port=self.master_port, is_launchers=self.hosts_store
            ),
            is_one_host=self.is_one_host,
            speaks_here=self.local_rank in (None, 0),
            launcher=_identity() if self.is_torchrun else "",
        )


def _whole(environ: Mapping[str, str], name: str, usual: int | None = None) -> int:
    if usual is not None and name not in environ:
        return usual
    try:
        return int(environ[name])
    except ValueError:
        raise ConfigError(
            f"{name}={environ[name]!r} in the environment is not a whole number; unset it, or start"
            " with torchrun"
        ) from None


def _identity() -> str:
    """The torchrun that has started this rank, and starts its next attempts too: on this host."""
    agent = psutil.Process().parent()
    run_id = os.environ.get(TORCHRUN_ID, "")
    if agent is None:
        return run_id
    # In ticks since the boot: by the clock it would change when that is set.
    _, _, facts = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")
    return f"{run_id} {this_host()} {agent.pid} {facts.split()[STARTED]}"
