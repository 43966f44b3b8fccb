"""An optimizer's state as named tensors, there and back.

Owns the names and how a number survives as a tensor. Knows nothing of blocks. torch's own
load_state_dict is not used: it casts what it loads to the parameter's type, and imports
torch._dynamo (see models.optimizers).

Names: "<parameter>/<key>", and "groups/<index>/<key>" for a number in a parameter group that has
changed since the optimizer was made. A key of a number ends in its type, such as "k:int". Where
several entries are one tensor, their keys have the same end, such as "step:shared0".
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from models.unsaveable import Unsaveable

Number = bool | int | float

SHARED = "shared"
DTYPES: dict[str, torch.dtype] = {"bool": torch.bool, "int": torch.int64, "float": torch.float64}
KEYS = {
    "sgd": frozenset({"momentum_buffer"}),
    "lars": frozenset({"momentum_buffer"}),
    "adamw": frozenset({"step", "exp_avg", "exp_avg_sq"}),
}


class OptimizerState:
    """What an optimizer of a name carries from step to step; `names` are its parameters'.

    The learning rate is no part of it: the caller sets it before each step.
    """

    def __init__(
        self, name: str, optimizer: torch.optim.Optimizer, names: Mapping[str, Parameter]
    ) -> None:
        self._name = name
        self._optimizer = optimizer
        self._parameters = dict(names)
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in names.items()}
        self._groups = {
            parameter: group for group in optimizer.param_groups for parameter in group["params"]
        }
        self._numbers_at_first = [_numbers(group) for group in optimizer.param_groups]
        self._others_at_first = [copy.deepcopy(_others(g)) for g in optimizer.param_groups]

    def state(self) -> dict[str, Tensor]:
        """All of it. Raises Unsaveable if the optimizer keeps by parameter what is no tensor and no
        number, or has changed in a group what is no number."""
        found: dict[str, Any] = {}
        for parameter, entries in self._optimizer.state.items():
            if parameter not in self._names:
                raise Unsaveable(
                    f"optimizer {self._name!r} keeps a state of {str(parameter)[:40]!r}, which is"
                    " no parameter of the block; use one that keeps its state by parameter"
                )
            self._check_keys(entries)
            found |= {f"{self._names[parameter]}/{key}": v for key, v in entries.items()}
        for i, group in enumerate(self._optimizer.param_groups):
            self._check_others(group, self._others_at_first[i])
            first = self._numbers_at_first[i]
            changed = {k: v for k, v in _numbers(group).items() if k not in first or v != first[k]}
            self._check_keys(changed)
            found |= {f"groups/{i}/{key}": value for key, value in changed.items()}
        state = dict(self._as_tensor(name, value) for name, value in found.items())
        return state if self._name in KEYS else _marked(state)

    def _check_keys(self, keys: Iterable[object]) -> None:
        for key in keys:
            if not isinstance(key, str) or "/" in key or ":" in key:
                raise Unsaveable(
                    f"optimizer {self._name!r} keeps a state under {key!r}, which is no name; use"
                    " a text without / and :, such as 'momentum'"
                )

    def _check_others(self, group: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        for key, value in _others(group).items():
            if key not in first or not _is_same(value, first[key]):
                raise Unsaveable(
                    f"optimizer {self._name!r} has changed {key!r}, a {type(value).__name__} in a"
                    " parameter group, which can't be saved; use a number there, or keep a tensor"
                    " in the state of each parameter"
                )

    def _as_tensor(self, name: str, value: object) -> tuple[str, Tensor]:
        if isinstance(value, Tensor):
            return name, value
        kind = type(value).__name__
        if kind not in DTYPES:
            raise Unsaveable(
                f"optimizer {self._name!r} keeps a {kind} as {name!r}, which can't be saved; use"
                " one that keeps tensors and numbers"
            )
        return f"{name}:{kind}", torch.tensor(value, dtype=DTYPES[kind])

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless `state` is of this optimizer and of these parameters."""
        keys: dict[str, set[str]] = {}
        for name, value in state.items():
            owner, _, key = name.rpartition("/")
            if owner.startswith("groups/"):
                index = int(owner.removeprefix("groups/"))
                if index >= len(self._optimizer.param_groups):
                    raise self._refusal(name, "which has no such group")
                continue
            if owner not in self._parameters:
                raise self._refusal(name, "which has no such parameter")
            shape = tuple(self._parameters[owner].shape)
            if self._name in KEYS and tuple(value.shape) not in ((), shape):
                raise self._refusal(name, f"{tuple(value.shape)} beside a parameter of {shape}")
            keys.setdefault(owner, set()).add(key)
        for owner, found in keys.items():
            if found != KEYS.get(self._name, found):
                raise self._refusal(
                    f"{owner}/{','.join(sorted(found))}",
                    f"which keeps {', '.join(sorted(KEYS[self._name]))}",
                )

    def _refusal(self, name: str, why: str) -> ValueError:
        return ValueError(
            f"state {name!r} for optimizer {self._name!r}, {why}; load it with the optimizer, the"
            " model and the cuts that it was saved with"
        )

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a copy of a state of `state()`, in place of all that was there."""
        self._optimizer.state.clear()
        for group, first in zip(self._optimizer.param_groups, self._numbers_at_first, strict=True):
            for key in _numbers(group).keys() - first.keys():
                del group[key]
            group.update(first)
        shared: dict[str, list[tuple[Tensor, Tensor]]] = {}  # given, and made of it
        for name, value in state.items():
            owner, _, key = name.rpartition("/")
            plain_key, _, kind = key.rpartition(":")
            if owner.startswith("groups/"):
                group = self._optimizer.param_groups[int(owner.removeprefix("groups/"))]
                group[plain_key] = value.item()
                continue
            entries = self._optimizer.state[self._parameters[owner]]
            if kind in DTYPES and plain_key:
                entries[plain_key] = value.item()
            elif kind.startswith(SHARED) and plain_key:
                holders = shared.setdefault(kind, [])
                made = next((made for given, made in holders if _same_bytes(given, value)), None)
                if made is None:  # in another cut, a neighbour's may bear the same name
                    made = self._placed(plain_key, value, self._parameters[owner])
                    holders.append((value, made))
                entries[plain_key] = made
            else:
                entries[key] = self._placed(key, value, self._parameters[owner])

    def _placed(self, key: str, value: Tensor, parameter: Parameter) -> Tensor:
        """A copy on the device that torch's optimizers want: the parameter's, but for the step
        count."""
        group = self._groups[parameter]
        if key == "step" and not (group.get("capturable") or group.get("fused")):
            return value.detach().clone()
        if value.shape == parameter.shape:  # with the parameter's strides
            placed = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
        else:
            placed = torch.empty(value.shape, dtype=value.dtype, device=parameter.device)
        return placed.copy_(value.detach())


def _numbers(group: Mapping[str, Any]) -> dict[str, Number]:
    return {
        key: value
        for key, value in group.items()
        if type(value) in (bool, int, float) and key != "lr"
    }


def _others(group: Mapping[str, Any]) -> dict[str, Any]:
    """What is no number, nor set anew before each step, and can be compared."""
    return {
        key: value
        for key, value in group.items()
        if isinstance(value, Tensor | tuple | list | str | None) and key not in ("params", "lr")
    }


def _is_same(value: object, first: object) -> bool:
    if isinstance(value, Tensor) and isinstance(first, Tensor):
        return _same_bytes(value, first)
    if isinstance(value, tuple | list) and isinstance(first, tuple | list):
        return len(value) == len(first) and all(map(_is_same, value, first))
    if not isinstance(value, Tensor | tuple | list | bool | int | float | str | None):
        return True  # an object of its own kind: it can't be told
    return type(value) is type(first) and value == first


def _marked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, with those entries named as shared that are one tensor: to be so again."""
    holders: dict[object, list[str]] = {}
    for name, tensor in state.items():
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        holders.setdefault(place if tensor.numel() else name, []).append(name)
    shared = [names for names in holders.values() if len(names) > 1]
    marks = {name: f":{SHARED}{i}" for i, names in enumerate(shared) for name in names}
    return {name + marks.get(name, ""): tensor for name, tensor in state.items()}


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    plain = [tensor.detach().resolve_conj().resolve_neg().cpu().reshape(-1) for tensor in (a, b)]
    raw = [tensor.view(torch.uint8) for tensor in plain]
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(*raw)
