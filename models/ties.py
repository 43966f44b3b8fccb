"""What crosses a tie: the shared parameters' weights or gradients, as one flat vector.

Owns how a home and its guest are tied, how their parameters become a vector, and how a partner's
vector is applied. Knows nothing of steps or blocks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.bad_numbers import all_finite
from models.wire import EXACT, Wire


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


def flat_weights(parameters: list[nn.Parameter], wire: Wire = EXACT) -> Tensor | None:
    """A copy of the weights as one vector (P,), as the wire carries them; None without weights."""
    return _flat(parameters, wire) if parameters else None


def flat_gradients(parameters: list[nn.Parameter], wire: Wire = EXACT) -> Tensor | None:
    """One of the gradients likewise, zero if a parameter has none."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return _flat(gradients, wire) if parameters else None


def _flat(tensors: Sequence[Tensor], wire: Wire) -> Tensor:
    flat = _joined(tensors)
    return flat.to(wire.tie_dtype(flat.dtype))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of them as one vector, each in the order of its indices, however it lies in memory."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def overflows(carried: Tensor | None, parameters: list[nn.Parameter]) -> bool:
    """Whether the vector of these weights that a wire carries is infinite where they are not."""
    is_rounded = carried is not None and carried.dtype != parameters[0].dtype
    if carried is None or not is_rounded or all_finite([carried]):
        return False
    weights = _joined(parameters)
    return bool((weights.isfinite() & ~carried.isfinite()).any())


def round_gradients(parameters: list[nn.Parameter], wire: Wire) -> bool:
    """Round finite gradients in place to what the wire carries of them, so that both ends of a tie
    add the same two terms. False if one overflows."""
    rounded = []
    for gradient in [p.grad for p in parameters if p.grad is not None]:
        dtype = wire.tie_dtype(gradient.dtype)
        if dtype != gradient.dtype:
            rounded.append(gradient.copy_(gradient.to(dtype)))
    return not rounded or all_finite(rounded)


def add_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    """Add a partner's gradients (P,), on the parameters' device, to their own, in the parameters'
    type. Raises RuntimeError if P is another number than the parameters have."""
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
        yield parameter, piece.view_as(parameter).to(parameter.dtype)
