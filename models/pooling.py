"""From what a unit gives to features: which shapes it may have, and their average over positions.

Owns how many features an output has and how it is pooled, for heads, probes and evaluation alike.
Knows nothing of who asks.

Shapes: N samples; F features; L positions of D features, a sequence; C channels of H by W.
"""

from torch import Tensor

SHAPES = "(F,) features, an (L, D) sequence or (C, H, W) channels"


def num_features(shape: tuple[int, ...]) -> int:
    """How many features an output of this shape, for one sample, has once it is pooled.

    Raises ValueError for a shape that no unit may give.
    """
    if len(shape) not in (1, 2, 3):
        raise ValueError(f"an activation of shape {shape} for each sample; give {SHAPES}")
    return shape[1] if len(shape) == 2 else shape[0]


def pool(x: Tensor) -> Tensor:
    """Average over all positions: (N, C, H, W) -> (N, C), (N, L, D) -> (N, D); (N, F) is returned
    as it is."""
    if x.ndim == 3:
        return x.mean(dim=1)
    return x.mean(dim=tuple(range(2, x.ndim))) if x.ndim > 2 else x
