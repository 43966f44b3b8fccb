"""A pipeline stage that sleeps: the slept blocks' work, in the shape that lock-step schedules take.

Owns the module and its autograd graph. A microbatch sleeps in its forward, in the gradient of the
stage's input and in the gradient of its weight, which zero-bubble schedules run apart:

    x ─► InputSleep ─┐
                     ├─► Join ─► activation
    w ─► WeightSleep ┘

Knows nothing of schedules or processes. What leaves a stage are the same tensors each time, as
with slept blocks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from runtime.testing.sleeper import Sleeper


class SleptStage(nn.Module):
    """Sleeps `microbatch_s(batch)` a microbatch: a share of it forward, then half of the rest for
    the input's gradient and half for the weight's.

    If there is no input to give a gradient (`is_first`), all of the backward is the weight's,
    as schedules run it. `batch` is what the training loop is at.
    """

    def __init__(
        self,
        microbatch_s: Callable[[int], float],
        *,
        forward_share: float,
        input_numel: int,
        output_numel: int,
        is_first: bool,
        sleeper: Sleeper,
    ) -> None:
        super().__init__()
        self.batch = 0
        self.weight = nn.Parameter(torch.zeros(1))
        self.output = torch.zeros(1, output_numel) + 0.0  # written to, as a real one is
        self.gradient = torch.zeros(1, input_numel) + 0.0
        self._microbatch_s = microbatch_s
        self._forward_share = forward_share
        backward_share = 1.0 - forward_share
        self._input_share = 0.0 if is_first else backward_share / 2
        self._weight_share = backward_share - self._input_share
        self._sleeper = sleeper

    def forward(self, x: Tensor) -> Tensor:
        """Take a microbatch's activation (1, input_numel); return one of (1, output_numel)."""
        self.sleep(self._forward_share)
        x = _InputSleep.apply(x, self, self._input_share)
        weight = _WeightSleep.apply(self.weight, self, self._weight_share)
        joined: Tensor = _Join.apply(x, weight, self)
        return joined

    def sleep(self, share: float) -> None:
        """Sleep a share of a microbatch's time."""
        self._sleeper.sleep(self._microbatch_s(self.batch) * share)


class _InputSleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stage: SleptStage, share: float) -> Tensor:
        ctx.stage, ctx.share = stage, share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        del gradient
        ctx.stage.sleep(ctx.share)
        return ctx.stage.gradient.detach(), None, None  # a tensor of its own: autograd keeps it


class _WeightSleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, stage: SleptStage, share: float) -> Tensor:
        ctx.stage, ctx.share = stage, share
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.stage.sleep(ctx.share)
        return gradient, None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stage: SleptStage) -> Tensor:
        del x, weight
        ctx.stage = stage
        return stage.output.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        del gradient
        return ctx.stage.gradient.detach(), torch.zeros(1), None
