"""What crosses a tie: the shared parameters' weights or gradients, as one flat vector.

Owns how they are laid out and what a partner's vector does. Knows nothing of steps or blocks.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from models.device import on_host


def flat_weights(parameters: list[nn.Parameter]) -> tuple[Tensor] | None:
    """Copy the weights to the host; None if there are none."""
    if not parameters:
        return None
    return (on_host(parameters_to_vector(parameters).detach()),)


def flat_gradients(parameters: list[nn.Parameter]) -> tuple[Tensor] | None:
    """Copy the gradients to the host, zero if a parameter has none."""
    if not parameters:
        return None
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return (on_host(parameters_to_vector(gradients)),)


def add_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    """Add a partner's gradients to the parameters' own."""
    for parameter, gradient in _slices(parameters, flat):
        if parameter.grad is None:
            parameter.grad = gradient.clone()
        else:
            parameter.grad += gradient


def pull(parameters: list[nn.Parameter], flat: Tensor, alpha: float) -> None:
    """Pull the weights by alpha towards a partner's."""
    with torch.no_grad():
        for parameter, partner in _slices(parameters, flat):
            parameter.lerp_(partner, alpha)


def _slices(parameters: list[nn.Parameter], flat: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
    pieces = flat.split([p.numel() for p in parameters])
    return zip(
        parameters,
        (piece.view_as(p) for p, piece in zip(parameters, pieces, strict=True)),
        strict=True,
    )
