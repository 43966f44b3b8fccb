"""Optimizers and learning rates by name.

Owns which parameters decay and how the rate moves over a run. Knows nothing of blocks.
"""

import inspect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from torch import nn
from torch.nn import Parameter

from models.lars import LARS
from models.plugins import call_function, is_dotted, unknown_name

LR_SCALE = "lr_scale"  # a key of a parameter group
Schedule = Literal["constant", "cosine"]

NAMES = ("sgd", "adamw", "lars")
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)


def norms_and_biases(modules: Iterable[nn.Module]) -> frozenset[Parameter]:
    """The parameters of norms and those named bias, whatever their shape."""
    return frozenset(
        parameter
        for module in modules
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if isinstance(owner, NORMS) or name.endswith("bias")
    )


def load_optimizer(
    name: str,
    params: list[Parameter],
    *,
    lr: float,
    weight_decay: float,
    lr_scale: float = 1.0,
    lr_scales: Mapping[Parameter, float] = MappingProxyType({}),
    spared: Collection[Parameter] = frozenset(),
) -> torch.optim.Optimizer:
    """Make the optimizer of a name. Vectors, and what is `spared`, do not decay, and LARS does not
    scale their rate.

    `lr_scales` says by how much the rate of some parameters is multiplied, `lr_scale` that of all
    others. A dotted name, package.module:function, is called as f(param_groups, lr=lr), each group
    with its own weight_decay; the rates that its groups then have keep their ratio to `lr`. Raises
    ValueError for an unknown name or a rate that cannot be, or if it asks for another decay.
    """
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"learning rate {lr}; it must be above 0, such as 1e-3")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight decay {weight_decay}; it must be 0 or above, such as 1e-6")
    if not params:
        raise ValueError("nothing to optimise; give a block at least one unit with parameters")
    scales = [lr_scales.get(p, lr_scale) for p in params]
    groups = _groups(params, weight_decay, scales, spared)
    _keep_dynamo_out()
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if name == "lars":
        return LARS(groups, lr=lr)
    if not is_dotted(name):
        raise unknown_name(name, "optimizer", NAMES)

    optimizer = call_function(name, "optimizer", groups, lr=lr)
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise ValueError(f"optimizer {name!r} made a {kind}; a torch.optim.Optimizer is needed")
    _refuse_other_decay(name, optimizer, weight_decay)
    for group in optimizer.param_groups:
        rate: object = group.get("lr", lr)
        if not isinstance(rate, int | float | torch.Tensor):
            raise ValueError(f"optimizer {name!r} has a group with lr={rate}; give it a number")
        group[LR_SCALE] = group.get(LR_SCALE, 1.0) * float(rate) / lr
    return optimizer


def _refuse_other_decay(name: str, optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Raise ValueError if a user's optimizer was told a weight decay that torch overrides by that
    of the groups."""
    parameters = inspect.signature(type(optimizer)).parameters
    usual = parameters["weight_decay"].default if "weight_decay" in parameters else None
    asked = optimizer.defaults.get("weight_decay")
    decays = {group.get("weight_decay") for group in optimizer.param_groups}
    if usual is not None and asked not in (usual, weight_decay, *decays):
        raise ValueError(
            f"optimizer {name!r} asks for weight_decay={asked}, and its groups have that of"
            f" --weight-decay, {weight_decay}; give --weight-decay {asked}, or set it in each group"
            " of matrices"
        )


def step_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Run one step, as `optimizer.step()` does.

    torch's step first imports torch._dynamo, only to tell the compiler to keep out: 1.3 s of
    every worker's start. Optimizers are never compiled, so torch's own are stepped without it; a
    user's optimizer gets its plain step.
    """
    if type(optimizer) in (torch.optim.SGD, torch.optim.AdamW, LARS):
        with torch.no_grad():
            inspect.unwrap(type(optimizer).step)(optimizer)
    else:
        optimizer.step()


def _keep_dynamo_out() -> None:
    """Let optimizers be made without importing torch._dynamo; see `step_optimizer`."""
    plain = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    vars(plain).setdefault("__dynamo_disable", plain)


def _groups(
    params: list[Parameter],
    weight_decay: float,
    lr_scales: list[float],
    spared: Collection[Parameter],
) -> list[dict[str, object]]:
    kinds = [(scale, decays) for scale in dict.fromkeys(lr_scales) for decays in (True, False)]
    groups: dict[tuple[float, bool], list[Parameter]] = {kind: [] for kind in kinds}
    for parameter, scale in zip(params, lr_scales, strict=True):
        decays = parameter.ndim > 1 and parameter not in spared
        groups[scale, decays].append(parameter)
    return [
        {
            **{"params": members, "weight_decay": weight_decay if decays else 0.0},
            **{"adapts": decays, LR_SCALE: scale},
        }
        for (scale, decays), members in groups.items()
        if members
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set a step's rate, for each group by its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_SCALE, 1.0)


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
