"""Networks by name.

Owns the list of names and how a user's own model joins it. The architectures live in their own
files.
"""

import math
from collections.abc import Callable

from models import randomness
from models.mlp import mlp
from models.network import Network, from_sequential
from models.plugins import call_function, is_dotted, unknown_name
from models.resnet import resnet, small_resnet

ImageShape = tuple[int, int, int]

NETWORKS: dict[str, Callable[[ImageShape], Network]] = {
    "resnet-small": lambda shape: small_resnet(in_channels=shape[0]),
    "resnet18": lambda shape: resnet(18, stem="imagenet", in_channels=shape[0]),
    "resnet34": lambda shape: resnet(34, stem="imagenet", in_channels=shape[0]),
    "resnet50": lambda shape: resnet(50, stem="imagenet", in_channels=shape[0]),
    "resnet18-cifar": lambda shape: resnet(18, stem="cifar", in_channels=shape[0]),
    "resnet34-cifar": lambda shape: resnet(34, stem="cifar", in_channels=shape[0]),
    "resnet50-cifar": lambda shape: resnet(50, stem="cifar", in_channels=shape[0]),
    "mlp": lambda shape: mlp(math.prod(shape)),
}


def load_network(name: str, image_shape: ImageShape, *, seed: int) -> Network:
    """Make the network of a name for images of shape (C, H, W).

    A dotted name, package.module:function, is called with no argument and returns a Network, or
    an nn.Sequential whose children become the units. Raises ValueError for an unknown name.
    """
    if not is_dotted(name):
        if name not in NETWORKS:
            raise unknown_name(name, "model", NETWORKS)
        return NETWORKS[name](image_shape)

    randomness.seed_torch(seed, "init", unit=name)
    built = call_function(name, "model")
    if isinstance(built, Network):
        return built
    return from_sequential(name, lambda: built, seed=seed)
