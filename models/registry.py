"""Networks by name.

Owns the list of names and how a user's own model joins it. The architectures live in their own
files.
"""

import math
import re

from models import randomness
from models.mlp import mlp
from models.network import Network, from_sequential
from models.plugins import call_function, is_dotted, unknown_name
from models.resnet import Depth, Stem, resnet, small_resnet

ImageShape = tuple[int, int, int]

RESNETS: dict[str, tuple[Depth, Stem]] = {
    "resnet18": (18, "imagenet"),
    "resnet34": (34, "imagenet"),
    "resnet50": (50, "imagenet"),
    "resnet18-cifar": (18, "cifar"),
    "resnet34-cifar": (34, "cifar"),
    "resnet50-cifar": (50, "cifar"),
}
SMALL = "resnet-small"
MLP = "mlp"
NAMES = (SMALL, *RESNETS, MLP)
WIDTH = re.compile(r"(?P<resnet>.+)-w(?P<width>[1-9]\d{0,3})")


def load_network(name: str, image_shape: ImageShape, *, seed: int) -> Network:
    """Make the network of a name for images of shape (C, H, W).

    A ResNet's name may end in the number of channels of its first stage: resnet18-cifar-w16. A
    dotted name, package.module:function, is called with no argument and returns a Network, or
    an nn.Sequential whose children become the units. Raises ValueError for an unknown name.
    """
    if not is_dotted(name):
        return _ours(name, image_shape)

    attribute = name.rpartition(":")[2]  # however the path to it is spelled
    randomness.seed_torch(seed, "init", unit=attribute)
    built = call_function(name, "model")
    if isinstance(built, Network):
        return built
    return from_sequential(name, lambda: built, seed=seed)


def _ours(name: str, image_shape: ImageShape) -> Network:
    match = WIDTH.fullmatch(name)
    plain, width = (match["resnet"], int(match["width"])) if match else (name, None)
    num_channels = image_shape[0]
    if plain in RESNETS:
        depth, stem = RESNETS[plain]
        return resnet(depth, stem=stem, width=width or 64, in_channels=num_channels)
    if plain == SMALL:
        return small_resnet(width or 16, in_channels=num_channels)
    if name == MLP:
        return mlp(math.prod(image_shape))
    raise unknown_name(name, "model", NAMES)
