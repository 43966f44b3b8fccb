"""How units compute: in which precision and memory layout, and whether again in the backward.

Owns what is alike for a block that learns and for a look at a network. Knows nothing of blocks.

Shapes: N samples, C channels, H height, W width.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """`precision`: bf16 is torch's autocast; weights, their gradients, statistics and losses stay
    in float32. `channels_last`: images (N, C, H, W) lie in memory as (N, H, W, C). `recompute`:
    only a unit's input is saved for its backward, which runs the unit again. `compile`: units go
    through torch.compile, each by itself (models.compilation).
    """

    precision: Precision = "fp32"
    channels_last: bool = False
    recompute: bool = False
    compile: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """What units and heads run under."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def for_loss(self, x: Tensor) -> Tensor:
        """A tensor as a loss gets it: in float32, unless units choose their types themselves."""
        return x if self.precision == "fp32" else x.float()

    def laid_out(self, x: Tensor) -> Tensor:
        """A batch in this layout: the same tensor if it has it already."""
        if not self._permutes(x):
            return x
        return x.contiguous(memory_format=torch.channels_last)

    def to_wire(self, x: Tensor) -> Tensor:
        """A view of an activation in the order in which it lies in memory: (N, H, W, C), if
        channels are last."""
        return x.permute(0, 2, 3, 1) if self._permutes(x) else x

    def from_wire(self, x: Tensor) -> Tensor:
        """The activation (N, C, H, W) of which `to_wire` made a view."""
        return x.permute(0, 3, 1, 2) if self._permutes(x) else x

    def wire_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One sample's shape, (C, H, W) or any other, as `to_wire` makes it."""
        return (*shape[1:], shape[0]) if self.channels_last and len(shape) == 3 else shape

    def _permutes(self, x: Tensor) -> bool:
        return self.channels_last and x.ndim == 4

    def run(
        self, module: nn.Module, x: Tensor, *, seed: Callable[[], None], writes_input: bool
    ) -> Tensor:
        """Run a unit that draws from torch's generators, which `seed` seeds.

        Equal bits with and without `recompute`: the second pass draws the same and leaves buffers
        as they are. A unit that works in place on its input gets a copy in each pass.
        """

        def compute(x: Tensor) -> Tensor:
            seed()
            with self.autocast(x.device):
                y: Tensor = module(x)
            return y

        if not self.recompute:
            return compute(x)
        y: Tensor = checkpoint(
            (lambda x: compute(x.clone())) if writes_input else compute,
            x,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), unchanged(module)),
        )
        return y


FP32 = Numerics()


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers back in the end, those that it made anew too."""
    before = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, value in before:
                buffer.copy_(value)
                owner._buffers[name] = buffer
