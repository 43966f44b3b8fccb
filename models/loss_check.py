"""Tries a head and the objective that follows it, as a block's step will, before a worker starts.

Owns what is said of a user's that don't fit. Knows nothing of blocks' units.

Shapes: B images a batch, N = 2B samples.
"""

import torch
from torch import Tensor, nn

from models.heads import HeadSpec
from models.numerics import Numerics
from models.objectives import Objective, Projections, needs_of
from models.plugins import users_code

NUM_SAMPLES = 4  # that are sent through a head
Shape = tuple[int, ...]


def try_head(spec: HeadSpec, head: nn.Module, numerics: Numerics) -> Projections:
    """Run a head on random samples.

    Raises UsersError if it raises, and ValueError unless it returns a tensor, or a tuple of such,
    with a row for each sample.
    """
    who = f"head {spec.name!r} of block {spec.block_index}"
    x_N = _random(NUM_SAMPLES, spec.in_shape)
    form = f"an input of shape {tuple(x_N.shape)}"
    with users_code(who, f" on {form}"), numerics.autocast(x_N.device):
        output: object = head(x_N)
    parts = output if isinstance(output, tuple) else (output,)
    for part in parts:
        is_tensor = isinstance(part, Tensor) and part.ndim and len(part) == NUM_SAMPLES
        if not is_tensor:
            found = type(part).__name__
            found += f" of shape {tuple(part.shape)}" if isinstance(part, Tensor) else ""
            raise ValueError(
                f"{who} returned a {found} for {form}; return a tensor with a row for each"
                " sample, or a tuple of such"
            )
    return parts if isinstance(output, tuple) else parts[0]


def try_objective(
    name: str,
    objective: Objective,
    projections: Projections,
    *,
    batch_size: int,
    input_shape: Shape,
    home_shape: Shape,
    block_index: int,
) -> None:
    """Call an objective on a batch of random projections, shaped like those of a few samples.

    `input_shape` and `home_shape` are one sample's: what the block is given, and what its home
    gives. Raises UsersError if the objective raises, and ValueError unless it returns a loss that
    can be followed.
    """
    parts = projections if isinstance(projections, tuple) else (projections,)
    batch = tuple(_random(2 * batch_size, tuple(part.shape[1:])) for part in parts)
    everything: dict[str, Tensor | int] = {
        "block_input": _random(2 * batch_size, input_shape).detach(),
        "home_output": _random(2 * batch_size, home_shape),
        "block_index": block_index,
    }
    needed = {need: everything[need] for need in needs_of(objective)}
    labels_B = torch.full((batch_size,), 0 if objective.uses_labels else -1)
    shapes = " and ".join(str(tuple(part.shape)) for part in batch)
    with users_code(f"objective {name!r}", f" on projections of shape {shapes}"):
        given = batch if isinstance(projections, tuple) else batch[0]
        loss: object = objective(given, labels_B, **needed)
    found = type(loss).__name__
    if isinstance(loss, Tensor):
        if loss.numel() == 1 and loss.requires_grad and loss.is_floating_point():
            return
        dtype = str(loss.dtype).removeprefix("torch.")
        found = f"tensor of shape {tuple(loss.shape)}, {dtype}"
        found += "" if loss.requires_grad else " without a gradient"
    raise ValueError(
        f"objective {name!r} returned a {found} for projections of shape {shapes}; it must return"
        " one real number, a tensor that depends on the projections"
    )


def _random(num_samples: int, shape: Shape) -> Tensor:
    """As activations come: no leaf, so that a module may work in place on it."""
    return torch.randn(num_samples, *shape).requires_grad_().clone()
