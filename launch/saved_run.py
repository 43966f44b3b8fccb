"""A finished run as its directory holds it: its resolved config and its weights.

Owns what is read there, and what is said of a directory that lacks it. Knows nothing of the data:
a run can be used without those that it was trained on.
"""

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from launch.config import ConfigError, ResolvedConfig
from launch.config_file import parse
from launch.planning.partition import Partition
from launch.resolve import let_users_modules_be_found
from models.network import Network
from models.paths import is_file, reading
from models.registry import ImageShape, load_network
from runtime.records.run_dir import finished_steps


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What a run was, and what it learned."""

    config: ResolvedConfig
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, run: Path) -> "SavedRun":
        """Read a run's directory. Raises ConfigError if it is none of a finished run, ValueError if
        it can't be looked into."""
        path = run / "config.toml"
        if not is_file(path):
            raise ConfigError(f"{str(run)!r} holds no config.toml; give the directory of a run")
        config = parse(["--config", str(path)], prog="saved run")
        if not isinstance(config, ResolvedConfig):
            raise ConfigError(f"{str(path)!r} is none that a run has written; give another run")
        path = run / "weights.safetensors"
        if not is_file(path):
            raise ConfigError(f"{str(run)!r} has no weights.safetensors; give a finished run")
        finished = finished_steps(run)
        if finished not in (None, config.steps):
            raise ConfigError(
                f"{str(run)!r} was extended from {finished} to {config.steps} steps and has not"
                " ended; resume it by its command, then evaluate it"
            )
        try:
            with reading(path):
                return cls(config=config, weights=safetensors.torch.load_file(path))
        except safetensors.SafetensorError as error:
            raise ConfigError(f"{str(path)!r} can't be read ({error}); give another run") from error

    def network(self, image_shape: ImageShape) -> Network:
        """The network for images of this shape; it may not take them."""
        let_users_modules_be_found()
        return load_network(self.config.model, image_shape, seed=self.config.seed)

    def partition(self, network: Network) -> Partition:
        """How the run cut it."""
        num_units = len(network.units)
        return Partition(num_units=num_units, cuts=self.config.cuts, overlaps=self.config.overlap)
