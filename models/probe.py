"""An online linear probe: how well a block's features tell the classes apart, while it trains.

Owns a linear classifier beside the block, and its own optimizer. It only reads features: no
gradient leaves it, so a probe never changes what is learned.

Shapes: N samples, F features, K classes. A label of -1 means unlabelled.
"""

import torch
from torch import Tensor
from torch.nn import Parameter, functional

from models.optimizers import load_optimizer, step_optimizer


class LinearProbe:
    """A linear classifier on layer-normalised features, measured on each batch before it learns."""

    def __init__(
        self, num_features: int, num_classes: int, *, lr: float = 0.01, memory: float = 0.9
    ) -> None:
        """Begin with all weights zero; `memory` is the moving average's, per batch."""
        self._memory = memory
        self._top1 = torch.zeros(())
        # One column more than there are features: the bias.
        zeros_KF = torch.zeros(num_classes, num_features + 1)
        self._weight_KF = Parameter(zeros_KF, requires_grad=False)
        self._adam = load_optimizer("adamw", [self._weight_KF], lr=lr, weight_decay=0.0)
        # Made here rather than by the first step, so that the state has one form at all times.
        self._adam.state[self._weight_KF] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(self._weight_KF),
            "exp_avg_sq": torch.zeros_like(self._weight_KF),
        }

    @property
    def top1(self) -> float | None:
        """The moving average of the batches' top-1; None before the first labelled batch."""
        return float(self._top1) if self._num_steps > 0 else None

    @torch.no_grad()
    def observe(self, features_NF: Tensor, labels_N: Tensor) -> float | None:
        """Return this batch's top-1, then learn from it; None if nothing is labelled.

        `labels_N` has one label a row: repeat the labels if both views are given. A batch
        whose features are not finite is left out too.
        """
        known_N = labels_N >= 0
        x_NF = features_NF.float().cpu()[known_N.cpu()]
        y_N = labels_N[known_N].cpu()
        if len(y_N) == 0 or not x_NF.isfinite().all():
            return None

        x_NF = functional.pad(functional.layer_norm(x_NF, x_NF.shape[1:]), (0, 1), value=1.0)
        scores_NK = x_NF @ self._weight_KF.T
        top1 = (scores_NK.argmax(dim=1) == y_N).float().mean()
        self._top1 = top1 if self._num_steps == 0 else torch.lerp(top1, self._top1, self._memory)

        # The gradient of softmax cross entropy, in closed form.
        error_NK = scores_NK.softmax(dim=1) - functional.one_hot(y_N, len(self._weight_KF))
        self._weight_KF.grad = error_NK.T @ x_NF / len(x_NF)
        step_optimizer(self._adam)
        return float(top1)

    def state(self) -> dict[str, Tensor]:
        """Copy everything the probe holds."""
        tensors = {"weight": self._weight_KF, "top1": self._top1}
        tensors |= self._adam.state[self._weight_KF]
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state of `state()`; ValueError if it is another probe's."""
        shape = tuple(state["weight"].shape)
        if shape != tuple(self._weight_KF.shape):
            raise ValueError(
                f"state of a probe of shape {shape} for one of {tuple(self._weight_KF.shape)}; "
                "load it into a probe of the same features and classes"
            )
        self._top1 = state["top1"].clone()
        self._weight_KF.copy_(state["weight"])
        for name in self._adam.state[self._weight_KF]:
            self._adam.state[self._weight_KF][name] = state[name].clone()

    @property
    def _num_steps(self) -> float:
        return float(self._adam.state[self._weight_KF]["step"])
