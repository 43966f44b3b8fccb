"""Bad numbers: steps whose loss or gradients are not finite.

Owns how such a step is found, counted and reported. Knows nothing of ties or optimizers: the
block leaves a bad step out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

FP16_REMEDY = (
    "numbers above 65504 are infinite on an edge in fp16, where --wire-precision bf16 has room"
)


class BadNumbers(Exception):
    """A block had too many bad steps in a row."""


class BadSteps:
    """Counts a block's bad steps, and ends the run after `max_in_a_row` of them in a row.

    `has_fp16_edge`: fp16 on an edge may be why. Raises ValueError for a number that cannot be.
    """

    def __init__(
        self,
        *,
        units: Sequence[str],
        max_in_a_row: int,
        lr: float,
        has_fp16_edge: bool = False,
    ) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"max_bad_steps {max_in_a_row}; it must be at least 1, such as 10")
        self._units = units
        self._max_in_a_row = max_in_a_row
        self._lr = lr
        self._has_fp16_edge = has_fp16_edge
        self._input = ""
        self.num_bad_steps = 0
        self.num_in_a_row = 0
        self.last_finite_loss = math.nan

    def look_at(self, input_NCHW: Tensor) -> None:
        """Store the figures of a step's input if a bad step would be the last one allowed.

        Before the forward, since a unit may work in place on its input.
        """
        if self.num_in_a_row + 1 >= self._max_in_a_row:
            self._input = describe(input_NCHW)

    def passed(self, loss: float) -> None:
        """A step was good."""
        self.num_in_a_row = 0
        self.last_finite_loss = loss

    def failed(self, step: int, loss: float) -> None:
        """A step was bad, or good but for a tie that could not be sent; raises BadNumbers if that
        was one too many."""
        self.num_bad_steps += 1
        self.num_in_a_row += 1
        if math.isfinite(loss):
            self.last_finite_loss = loss
        if self.num_in_a_row < self._max_in_a_row:
            return
        before = (
            "no step had a finite loss"
            if math.isnan(self.last_finite_loss)
            else f"the last finite loss was {self.last_finite_loss:.6g}"
        )
        raise BadNumbers(
            f"block of units {', '.join(self._units)}: loss, gradients or ties not finite in"
            f" {self.num_in_a_row} steps in a row, up to step {step} (loss {loss}); its input"
            f" there: {self._input}; {before}; lower --lr (now {self._lr:g}) or raise"
            " --warmup-steps; if the input is not finite, look at the data and at the block"
            " below" + (f"; {FP16_REMEDY}" if self._has_fp16_edge else "")
        )

    def state(self) -> dict[str, Tensor]:
        """The counters, as 0-dim tensors."""
        return {
            "num_bad_steps": torch.tensor(self.num_bad_steps),
            "num_in_a_row": torch.tensor(self.num_in_a_row),
            "last_finite_loss": torch.tensor(self.last_finite_loss, dtype=torch.float64),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state of `state()`."""
        self.num_bad_steps = int(state["num_bad_steps"])
        self.num_in_a_row = int(state["num_in_a_row"])
        self.last_finite_loss = float(state["last_finite_loss"])


def norm_of(tensors: Iterable[Tensor]) -> Tensor:
    """A scalar that is finite only if all values are: the Euclidean norm, since the maximum norm
    takes eight times as long on a CPU. It overflows if values exceed some 1e19 in float32."""
    return get_total_norm(list(tensors))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value is finite, at the cost of one norm; a bad one calls for a second look."""
    tensors = list(tensors)
    if math.isfinite(float(norm_of(tensors))):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def describe(x: Tensor) -> str:
    """A batch in a few figures: its shape, the range and mean of what is finite, and the rest."""
    finite = x[x.isfinite()].double()
    num_bad = x.numel() - finite.numel()
    figures = f"shape {tuple(x.shape)}, "
    if finite.numel():
        low, high, mean = float(finite.min()), float(finite.max()), float(finite.mean())
        figures += f"min {low:.4g}, max {high:.4g}, mean {mean:.4g}, "
    return figures + f"{num_bad} of {x.numel()} values not finite"
