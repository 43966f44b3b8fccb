"""LARS: a learning rate for each matrix, by the norms of its weights and its gradient.

Owns the step. torch has none; this is SimCLR's (arXiv 2002.05709), after arXiv 1708.03888, alg. 1.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """With momentum m, weight w, gradient g and decay d:

        v = m v + lr * trust * |w| / |g + d w| * (g + d w);  w = w - v

    Norms are of a whole parameter, in float32; momentum holds scaled gradients. In a group with
    `adapts` False, for norms' parameters and biases, v = m v + lr g.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        super().__init__(
            params,
            {
                **{"lr": lr, "momentum": momentum, "trust": trust},
                **{"weight_decay": 0.0, "adapts": True},
            },
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; `closure` is called first, if it is given."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, group)
        return loss

    def _step(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        rate = torch.tensor(float(group["lr"]), device=weight.device)
        if group["adapts"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
            sizes = [torch.linalg.vector_norm(t, dtype=torch.float32) for t in (weight, gradient)]
            scale = group["trust"] * sizes[0] / sizes[1]
            rate = rate * torch.where((sizes[0] > 0) & (sizes[1] > 0), scale, 1.0)
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        moved = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient * rate)
        weight.sub_(moved)
