"""A multilayer perceptron as a list of units: the smallest network that can be cut.

Owns the architecture only. Knows nothing of cuts, heads or losses.
"""

from functools import partial

from torch import nn

from models.network import Network, Unit


def mlp(in_features: int, *, width: int = 64, depth: int = 4) -> Network:
    """Make `depth` units of Linear and ReLU: (B, C, H, W) or (B, F) -> (B, width)."""
    if min(in_features, width, depth) < 1:
        raise ValueError(
            f"mlp of in_features={in_features}, width={width}, depth={depth}; each must be at "
            "least 1"
        )
    units = []
    for i in range(depth):
        build = partial(_layer, in_features if i == 0 else width, width)
        units.append(Unit(name=f"fc{i}", prefix=f"fc{i}.", build=build))
    return Network(name="mlp", units=tuple(units), num_features=width)


def _layer(in_features: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(1), nn.Linear(in_features, width), nn.ReLU())
