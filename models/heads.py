"""Heads: what a block puts on top of its units to reach its local objective (LoCo: decoders).

Owns our head's layers, how a user's own head comes in its place, and how a head is run. Knows
nothing of which objective follows; the caller seeds the weights' draw and builds the head.

Shapes: N samples, C channels, H height, W width, F features; L positions of D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.numerics import Numerics
from models.objectives import Projections
from models.plugins import call_function, is_dotted, unknown_name
from models.pooling import num_features, pool
from models.resnet import ResidualBlock
from models.unit_module import check_module, uncompiled

DEFAULT_HEAD_HIDDEN = 256
DEFAULT_HEAD_FEATURES = 64
DEFAULT_HEAD = "mlp"
WITH_NORMS = "mlp-bn"
OURS = (DEFAULT_HEAD, WITH_NORMS)


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Which head a block has: its name, the shape for one sample of what it stands on, the width
    that the objective needs (None: free), its depth, and the index of its block. `hidden` and
    `features` are the widths of ours: of its first layer, and of its output where that is free."""

    name: str = DEFAULT_HEAD
    in_shape: tuple[int, ...]
    out_features: int | None = None
    depth: int = 0
    block_index: int = 0
    hidden: int = DEFAULT_HEAD_HIDDEN
    features: int = DEFAULT_HEAD_FEATURES

    @property
    def label(self) -> str:
        """Names it in errors."""
        return f"head {self.name!r} of block {self.block_index}"


def load_head(spec: HeadSpec) -> nn.Module:
    """Make a head with whatever weights torch's generator draws next.

    "mlp" is `build_head`'s, "mlp-bn" that with norms. A dotted name, package.module:factory, is
    called with in_shape, out_features, depth and block_index as keywords, and returns a module that
    takes what the block's last unit gives, (2B, *in_shape). Raises ValueError for an unknown name,
    or for what is no module.
    """
    if spec.name in OURS:
        return build_head(
            in_shape=spec.in_shape,
            hidden=spec.hidden,
            out_features=spec.features if spec.out_features is None else spec.out_features,
            depth=spec.depth,
            has_norms=spec.name == WITH_NORMS,
        )
    if not is_dotted(spec.name):
        raise unknown_name(spec.name, "head", OURS)
    built = call_function(
        spec.name,
        "head",
        in_shape=spec.in_shape,
        out_features=spec.out_features,
        depth=spec.depth,
        block_index=spec.block_index,
    )
    check_module(built, spec.label)
    assert isinstance(built, nn.Module), "checked just now"
    module, _ = uncompiled(built)
    return module


def run_head(head: nn.Module, x_N: Tensor, numerics: Numerics) -> Projections:
    """What a head makes of its block's last output, as a loss gets it.

    It is run in its own type, or under autocast, since a user's units may give another. Raises
    ValueError unless it returns a tensor, or a tuple of such, with a row for each sample.
    """
    if numerics.precision == "fp32":
        dtypes = [p.dtype for p in head.parameters()] or [x_N.dtype]
        x_N = x_N.to(dtypes[0])
    elif x_N.dtype == torch.float64:  # which autocast leaves as it is
        x_N = x_N.float()
    with numerics.autocast(x_N.device):
        output: object = head(x_N)
    parts = output if isinstance(output, tuple) else (output,)
    _check_parts(parts, x_N)
    for_loss = tuple(numerics.for_loss(part) for part in parts)
    return for_loss if isinstance(output, tuple) else for_loss[0]


def _check_parts(parts: tuple[object, ...], x_N: Tensor) -> None:
    remedy = (
        f"for an input of shape {tuple(x_N.shape)}; return a tensor of floating point with a row"
        " for each sample, or a tuple of such"
    )
    for part in parts:
        if not (isinstance(part, Tensor) and part.ndim and len(part) == len(x_N)):
            found = type(part).__name__
            found += f" of shape {tuple(part.shape)}" if isinstance(part, Tensor) else ""
            raise ValueError(f"it returned a {found} {remedy}")
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if not any(tensor.is_floating_point() for tensor in tensors):
        dtypes = ", ".join(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
        raise ValueError(f"it returned {dtypes or 'an empty tuple'} {remedy}")


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
    hidden: int = DEFAULT_HEAD_HIDDEN,
    out_features: int = DEFAULT_HEAD_FEATURES,
    depth: int = 0,
    has_norms: bool = False,
) -> nn.Module:
    """Build `depth` residual blocks, global average pool and a 2-layer MLP; if it has norms, with a
    BatchNorm in place of each layer's bias, as SimCLR's (arXiv 2002.05709, its published code).

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
    layers.insert(0 if pools_first(in_shape) else depth, Pool())
    layers += [*_layer(width, hidden, has_norm=has_norms), nn.ReLU(inplace=True)]
    layers += _layer(hidden, out_features, has_norm=has_norms)
    return nn.Sequential(*layers)


def _layer(width: int, out_features: int, *, has_norm: bool) -> list[nn.Module]:
    linear = nn.Linear(width, out_features, bias=not has_norm)
    return [linear, nn.BatchNorm1d(out_features)] if has_norm else [linear]


def pools_first(in_shape: tuple[int, ...]) -> bool:
    """Whether a shape is a sequence's, which is pooled before any residual layer."""
    return len(in_shape) == 2
