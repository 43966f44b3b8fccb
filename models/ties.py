"""What crosses a tie: the shared parameters' weights or gradients, as one flat vector.

Owns how a home and its guest are tied, how their parameters become a vector, and how a partner's
vector is applied. Knows nothing of steps or blocks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from models.device import on_host


@dataclass(frozen=True, kw_only=True)
class TieRule:
    """How a home and its guest are held together; alpha is the run's.

    `adds_gradients`: each adds the other's gradient to its own before it steps, so that with lag 0
    both stay one (arXiv 2008.01342). `trains_guest`: the guest is in the optimizer; else gradients
    only flow through it. `pulls_guest`, `pulls_home`: after a step it moves by alpha towards the
    other.
    """

    adds_gradients: bool = False
    trains_guest: bool = True
    pulls_guest: bool = False
    pulls_home: bool = False

    @property
    def sends_up(self) -> bool:
        """Whether the guest's weights or gradients go to its home."""
        return self.adds_gradients or self.pulls_home

    @property
    def sends_down(self) -> bool:
        """Whether the home's go to the guest."""
        return self.adds_gradients or self.pulls_guest


Tie = Literal["gradient", "elastic", "follow", "none"]
RULES: Mapping[Tie, TieRule] = {
    "gradient": TieRule(adds_gradients=True),
    "elastic": TieRule(pulls_guest=True, pulls_home=True),
    "follow": TieRule(trains_guest=False, pulls_guest=True),
    "none": TieRule(),
}


def flat_weights(parameters: list[nn.Parameter]) -> tuple[Tensor] | None:
    """Copy the weights to the host as one vector (P,) of their type; None if there are none."""
    if not parameters:
        return None
    return (on_host(parameters_to_vector(parameters).detach()),)


def flat_gradients(parameters: list[nn.Parameter]) -> tuple[Tensor] | None:
    """Copy the gradients to the host likewise, zero if a parameter has none."""
    if not parameters:
        return None
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return (on_host(parameters_to_vector(gradients)),)


def add_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    """Add a partner's gradients (P,), on the parameters' device, to their own. Raises RuntimeError
    if P is another number than the parameters have."""
    for parameter, gradient in _slices(parameters, flat):
        if parameter.grad is None:
            parameter.grad = gradient.clone()
        else:
            parameter.grad += gradient


def pull(parameters: list[nn.Parameter], flat: Tensor, alpha: float) -> None:
    """Pull the weights by alpha towards a partner's (P,) (arXiv 1412.6651, eq. 6). Raises as
    `add_gradients` does."""
    with torch.no_grad():
        for parameter, partner in _slices(parameters, flat):
            parameter.lerp_(partner, alpha)


def _slices(parameters: list[nn.Parameter], flat: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
    pieces = flat.split([p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        yield parameter, piece.view_as(parameter)
