"""Optimizers and learning rates by name.

Owns which parameters decay and how the rate moves over a run. Knows nothing of blocks.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import Parameter

from models.plugins import call_function, is_dotted, unknown_name

Schedule = Literal["constant", "cosine"]

NAMES = ("sgd", "adamw")


def load_optimizer(
    name: str, params: list[Parameter], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make the optimizer of a name; vectors (BatchNorm, biases) never decay.

    A dotted name, package.module:function, is called as f(param_groups, lr=lr), each group with
    its own weight_decay. Raises ValueError for an unknown name or a rate that cannot be.
    """
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"learning rate {lr}; it must be above 0, such as 1e-3")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight decay {weight_decay}; it must be 0 or above, such as 1e-6")
    if not params:
        raise ValueError("nothing to optimise; give a block at least one unit with parameters")
    groups = _groups(params, weight_decay)
    _keep_dynamo_out()
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if not is_dotted(name):
        raise unknown_name(name, "optimizer", NAMES)

    optimizer = call_function(name, "optimizer", groups, lr=lr)
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise ValueError(f"optimizer {name!r} made a {kind}; a torch.optim.Optimizer is needed")
    return optimizer


def step_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Run one step, as `optimizer.step()` does.

    torch's step first imports torch._dynamo, only to tell the compiler to keep out: 1.3 s of
    every worker's start. Nothing here is compiled, so torch's own optimizers are stepped
    without it; a user's optimizer gets its plain step.
    """
    if type(optimizer) in (torch.optim.SGD, torch.optim.AdamW):
        with torch.no_grad():
            inspect.unwrap(type(optimizer).step)(optimizer)
    else:
        optimizer.step()


def _keep_dynamo_out() -> None:
    """Let optimizers be made without importing torch._dynamo; see `step_optimizer`."""
    plain = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    vars(plain).setdefault("__dynamo_disable", plain)


def _groups(params: list[Parameter], weight_decay: float) -> list[dict[str, object]]:
    matrices = [p for p in params if p.ndim > 1]
    vectors = [p for p in params if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(
    step: int,
    num_steps: int,
    *,
    base: float,
    warmup_steps: int,
    schedule: Schedule,
    earlier_lengths: Sequence[tuple[int, int]] = (),
) -> float:
    """Return the rate of a step (0-based): a linear warm-up to `base`, then the schedule.

    "cosine" falls to 0 at `num_steps` (arXiv 1608.03983, eq. 5, without restarts). Of a run that
    was extended `earlier_lengths` says, oldest first, below which step it was laid over how many.
    """
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"no schedule {schedule!r}; choose 'constant' or 'cosine'")
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    if schedule == "constant":
        return base
    num_steps = next((length for end, length in earlier_lengths if step < end), num_steps)
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return base * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
