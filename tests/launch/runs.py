"""Runs that are resolved in no time, for tests of what follows from them."""

from launch.config import RunConfig
from launch.environment import Environment
from launch.planning.resolved import Resolved
from launch.resolve import resolve

MACHINE = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)


def resolved(**settings: object) -> Resolved:
    return resolve(RunConfig(**settings), environment=MACHINE)


def light(**settings: object) -> Resolved:
    """A network of four equal units that is quick to look at."""
    return resolved(**({"model": "mlp", "decoder_depth": (0,)} | settings))
