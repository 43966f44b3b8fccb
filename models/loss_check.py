"""Tries a head and the objective that follows it, as a block's step will, before a worker starts.

Owns what is said of a user's that don't fit. Knows nothing of blocks' units.

Shapes: B images a batch, N = 2B samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.heads import HeadSpec, load_head, run_head
from models.numerics import Numerics
from models.objectives import Objective, Projections, needs_of
from models.plugins import users_code
from models.unit_module import check_as_trained, forms_of, memory_of, own_tensors

Shape = tuple[int, ...]


def check_heads_apart(specs: Sequence[HeadSpec]) -> None:
    """Raise ValueError if a user's heads share memory, or one that is built twice is one module.

    Each block trains its own, and a worker that is restarted begins with a new one.
    """
    specs = [*specs, specs[0]]
    heads = [load_head(spec) for spec in specs]  # all of them: memory that is freed is used again
    owners: dict[int, HeadSpec] = {}
    for spec, head in zip(specs, heads, strict=True):
        for address, name in memory_of(head).items():
            if address in owners:
                raise ValueError(
                    f"{spec.label} has the same {name!r} as that of block"
                    f" {owners[address].block_index}; make a new module each time, since each"
                    " block trains its own"
                )
            owners[address] = spec


def try_local_loss(
    name: str,
    objective: Objective,
    spec: HeadSpec,
    head: nn.Module,
    numerics: Numerics,
    *,
    batch_size: int,
    num_classes: int,
    input_shape: Shape,
    home_shape: Shape,
) -> None:
    """Run a head and an objective on random samples, forward and backward.

    `input_shape` and `home_shape` are one sample's: what the block is given, and what its home
    gives. Raises UsersError if one of them raises, and ValueError unless they give a loss that can
    be followed, and the same each time.
    """
    x_N = _random(2 * batch_size, spec.in_shape)
    forms = forms_of(own_tensors(head))
    with users_code(spec.label, f" on an input of shape {tuple(x_N.shape)}"):
        projections = run_head(head, x_N, numerics)
    check_as_trained(head, spec.label, forms, x_N)
    everything: dict[str, Tensor | int] = {
        "block_input": _random(2 * batch_size, input_shape).detach(),
        "home_output": _random(2 * batch_size, home_shape),
        "block_index": spec.block_index,
    }
    needed = {need: everything[need] for need in needs_of(objective)}
    labels_B = torch.full((batch_size,), -1)
    if objective.uses_labels:
        labels_B = num_classes - 1 - torch.arange(batch_size) % num_classes
    parts = projections if isinstance(projections, tuple) else (projections,)
    shapes = " and ".join(str(tuple(part.shape)) for part in parts)
    who = f"objective {name!r}"

    def call(projections: Projections) -> object:
        torch.manual_seed(0)  # as a step seeds it
        given = {key: x.clone() if isinstance(x, Tensor) else x for key, x in needed.items()}
        with users_code(who, f" on projections of shape {shapes}"):
            return objective(projections, labels_B.clone(), **given)

    copied = _copy(projections)  # before the objective, which may work in place
    loss = _followed(call(projections), who, f"projections of shape {shapes}", spec, parts)
    again = call(copied)
    with users_code(f"the backward of {who} and {spec.label}"):
        loss.backward()
    if not (isinstance(again, Tensor) and torch.allclose(loss, again, 0, 0, equal_nan=True)):
        raise ValueError(
            f"{who} gave {_number(loss)}, and {_number(again)} when it was called again with the"
            " same; it must hold no state, which a worker that is restarted would lose: what it"
            " has to remember belongs in the head's buffers"
        )


def _followed(
    loss: object, who: str, given: str, spec: HeadSpec, parts: tuple[Tensor, ...]
) -> Tensor:
    """The loss, if a backward can start at it. Raises ValueError."""
    found = type(loss).__name__
    if isinstance(loss, Tensor):
        if loss.numel() == 1 and loss.requires_grad and loss.is_floating_point():
            return loss
        if not any(part.requires_grad for part in parts):
            raise ValueError(
                f"{spec.label} returned nothing with a gradient, so that no loss can teach what is"
                " below it; compute it from the input by torch, without detach or no_grad"
            )
        dtype = str(loss.dtype).removeprefix("torch.")
        found = f"tensor of shape {tuple(loss.shape)}, {dtype}"
        found += "" if loss.requires_grad else " without a gradient"
    raise ValueError(
        f"{who} returned a {found} for {given}; it must return one real number, a tensor that"
        " depends on the projections"
    )


def _number(loss: object) -> str:
    return f"{loss.item():.9g}" if isinstance(loss, Tensor) and loss.numel() == 1 else repr(loss)


def _copy(projections: Projections) -> Projections:
    if isinstance(projections, Tensor):
        return projections.clone()
    return tuple(part.clone() for part in projections)


def _random(num_samples: int, shape: Shape) -> Tensor:
    """As activations come: no leaf, so that a module may work in place on it."""
    return torch.randn(num_samples, *shape).requires_grad_().clone()
