"""Heads: what a block puts on top of its units to reach its local objective (LoCo: decoders).

Owns the head's layers, and what they take. Knows nothing of which objective follows; the
caller seeds the weights' draw and builds the head.

Shapes: N samples, C channels, H height, W width, F features; L positions of D features.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.pooling import num_features, pool
from models.resnet import ResidualBlock

DEFAULT_HEAD_FEATURES = 64


class Pool(nn.Module):
    """`pool` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return pool(x)


class ResidualLayer(nn.Module):
    """Two linear layers beside a shortcut, (N, F) -> (N, F): a residual block without positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.fc2 = nn.Linear(width, width, bias=False)
        self.bn2 = nn.BatchNorm1d(width)

    def forward(self, x_NF: Tensor) -> Tensor:
        y_NF = functional.relu_(self.bn1(self.fc1(x_NF)))
        return functional.relu_(self.bn2(self.fc2(y_NF)) + x_NF)


def build_head(
    *,
    in_shape: tuple[int, ...],
    hidden: int = 256,
    out_features: int = DEFAULT_HEAD_FEATURES,
    depth: int = 0,
) -> nn.Module:
    """Build `depth` residual blocks, global average pool and a 2-layer MLP.

    `in_shape` is one sample's, (C, H, W), (F,) or (L, D). A sequence is pooled first: its residual
    layers work on the D features of its average, not on each position. Deeper heads are half of
    LoCo's gain over isolated blocks (arXiv 2008.01342). Raises ValueError for sizes that cannot
    be.
    """
    if min(hidden, out_features) < 1 or depth < 0:
        raise ValueError(
            f"head of hidden={hidden}, out_features={out_features}, depth={depth}; widths must "
            "be at least 1 and the depth at least 0"
        )
    width = num_features(in_shape)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(ResidualBlock(width, width) if len(in_shape) == 3 else ResidualLayer(width))
    layers.insert(0 if _pools_first(in_shape) else depth, Pool())
    layers += [
        nn.Linear(width, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out_features),
    ]
    return nn.Sequential(*layers)


def _pools_first(in_shape: tuple[int, ...]) -> bool:
    """Whether it is a sequence."""
    return len(in_shape) == 2


@dataclass(frozen=True, kw_only=True)
class HeadTrace:
    """What a head takes: its weights once, the FLOPs of a forward and what it keeps for one
    sample. `kept_bytes` is what lives until its backward, its input not included."""

    num_trainable: int
    weight_bytes: int
    flops: int
    kept_bytes: int


@cache
def trace_head(
    *, in_shape: tuple[int, ...], depth: int, out_features: int = DEFAULT_HEAD_FEATURES
) -> HeadTrace:
    """Say what `build_head` would make, without running it: heads can be larger than networks.

    Every convolution is of stride 1 and padded, so each weight meets each position once; a
    residual block keeps four tensors of its input's size (two before BatchNorm, two after ReLU).
    Of a sequence, that is pooled first, the residual layers have one position.
    """
    with torch.device("meta"):  # only its sizes are wanted
        head = build_head(in_shape=in_shape, depth=depth, out_features=out_features)
    width = num_features(in_shape)
    positions = 1 if _pools_first(in_shape) else math.prod(in_shape[1:])
    convolutions = [m.weight.numel() for m in head.modules() if isinstance(m, nn.Conv2d)]
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    perceptron = linears[-2:]
    of_input = 4 * depth * width * positions
    pooled = width if len(in_shape) > 1 else 0
    of_perceptron = pooled + sum(m.out_features for m in perceptron)
    return HeadTrace(
        num_trainable=sum(p.numel() for p in head.parameters()),
        weight_bytes=sum(t.nbytes for t in (*head.parameters(), *head.buffers())),
        flops=2 * (positions * sum(convolutions) + sum(m.weight.numel() for m in linears)),
        kept_bytes=4 * (of_input + of_perceptron),
    )
