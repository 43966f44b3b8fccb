"""What heads cost: weights, FLOPs of a forward, and what is saved for the backward.

Owns the counting. Our own heads are counted without running them, since they can be larger than
the network, and as in float32, which is an upper bound for bf16; a user's is run on random samples.
Knows nothing of blocks.

Shapes: N samples.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from models.heads import OURS, WITH_NORMS, HeadSpec, load_head, pools_first, run_head
from models.network import NUM_BLANKS
from models.numerics import FP32, Numerics
from models.plugins import users_code
from models.pooling import num_features
from models.unit_costs import count_cost


@dataclass(frozen=True, kw_only=True)
class HeadCost:
    """A head's trained parameters, their number and bytes, its weights in bytes, once, and for one
    sample the FLOPs of a forward and `kept_bytes`: what lives until its backward, its input not
    included."""

    num_trainable: int
    trainable_bytes: int
    weight_bytes: int
    flops: int
    kept_bytes: int


@cache
def count_head_cost(spec: HeadSpec, numerics: Numerics = FP32) -> HeadCost:
    """Say what a head costs. Raises as `load_head` and `run_head` do, and UsersError if a user's
    head raises."""
    if spec.name in OURS:
        return _of_ours(spec)
    head = load_head(spec)
    x_N = torch.rand(NUM_BLANKS, *spec.in_shape).requires_grad_().clone()  # may be worked on
    with users_code(spec.label, f" on an input of shape {tuple(x_N.shape)}"):
        cost, _ = count_cost(head, x_N, lambda x: run_head(head, x, numerics))
    trainable = [p for p in head.parameters() if p.requires_grad]
    return HeadCost(
        num_trainable=sum(p.numel() for p in trainable),
        trainable_bytes=sum(p.nbytes for p in trainable),
        weight_bytes=cost.weight_bytes,
        flops=cost.flops,
        kept_bytes=cost.kept_bytes,
    )


def _of_ours(spec: HeadSpec) -> HeadCost:
    """Every convolution is of stride 1 and padded, so each weight meets each position once; a
    residual block keeps four tensors of its input's size (two before BatchNorm, two after ReLU). A
    layer of the perceptron with a BatchNorm keeps what comes into that too.
    Of a sequence, that is pooled first, the residual layers have one position.
    """
    with torch.device("meta"):  # only its sizes are wanted
        head = load_head(spec)
    in_shape = spec.in_shape
    width = num_features(in_shape)
    positions = 1 if pools_first(in_shape) else math.prod(in_shape[1:])
    convolutions = [m.weight.numel() for m in head.modules() if isinstance(m, nn.Conv2d)]
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    perceptron = linears[-2:]
    of_input = 4 * spec.depth * width * positions
    pooled = width if len(in_shape) > 1 else 0
    kept_by_layer = 2 if spec.name == WITH_NORMS else 1
    of_perceptron = pooled + kept_by_layer * sum(m.out_features for m in perceptron)
    return HeadCost(
        num_trainable=sum(p.numel() for p in head.parameters()),
        trainable_bytes=sum(p.nbytes for p in head.parameters()),
        weight_bytes=sum(t.nbytes for t in (*head.parameters(), *head.buffers())),
        flops=2 * (positions * sum(convolutions) + sum(m.weight.numel() for m in linears)),
        kept_bytes=4 * (of_input + of_perceptron),
    )
