"""How units compute: in which precision and memory layout, and whether again in the backward.

Owns what is alike for a block that learns and for a look at a network. Knows nothing of blocks.

Shapes: N samples, C channels, H height, W width.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

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

        needs_backward = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in module.parameters())
        )
        if not (self.recompute and needs_backward):
            return compute(x)

        compute_on_own = (lambda x: compute(x.clone())) if writes_input else compute
        y: Tensor = _Recomputed.apply(compute_on_own, module, x, _needs_gradient())
        return y


FP32 = Numerics()


class _Recomputed(torch.autograd.Function):
    """Saves a unit's input alone, and runs the unit again in the backward; the unit's parameters
    get their gradients there. torch.utils.checkpoint would do, but imports torch's compiler: 70 MB
    in each worker."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, _: Tensor
    ) -> Tensor:
        ctx.compute, ctx.module, ctx.buffers = compute, module, _copied_buffers(module)
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)  # where no gradient comes from above, none goes on
        with torch.enable_grad():  # as it is again: bits of a compiled unit depend on that, too
            y = compute(_leaf(x))
        found = y.detach()
        if not y.requires_grad:
            ctx.mark_non_differentiable(found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[None, None, Tensor | None, None]:
        if gradient is None:
            return None, None, None, None
        x = _leaf(*ctx.saved_tensors)
        with unchanged(ctx.module), torch.enable_grad():
            _put_back(ctx.buffers)  # an output may depend on them
            _GoesOn.apply(ctx.compute(x), gradient).backward()
        return None, None, x.grad, None


class _GoesOn(torch.autograd.Function):
    """A number whose backward goes on with a given gradient: as `y.backward(gradient)`, which would
    import sympy, 36 MB in each worker."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gradient: Tensor) -> Tensor:
        if (y.shape, y.dtype) != (gradient.shape, gradient.dtype):
            raise RuntimeError(
                f"a unit that is run again (--recompute) gave {tuple(y.shape)} {y.dtype}, and"
                f" {tuple(gradient.shape)} {gradient.dtype} before; it must repeat itself"
            )
        ctx.save_for_backward(gradient)
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient, None


def _leaf(x: Tensor) -> Tensor:
    """The same data, at which a graph begins."""
    return x.detach().requires_grad_(x.requires_grad)


def _needs_gradient() -> Tensor:
    """Beside an input that needs none: for a Function's output to need one."""
    return torch.empty(0, requires_grad=True)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers back in the end, those that it made anew too."""
    before = _copied_buffers(module)
    try:
        yield
    finally:
        _put_back(before)


def _copied_buffers(module: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    """Each buffer with its owner, its name there, and a copy."""
    return [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]


def _put_back(buffers: list[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for owner, name, buffer, value in buffers:
            buffer.copy_(value)
            owner._buffers[name] = buffer
