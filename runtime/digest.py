"""Digests of named tensors: equal exactly if names, shapes, dtypes and bytes are.

Owns how a set of tensors becomes one SHA-256, in one go or from parts made in many processes.
"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def records(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """One line a tensor: dtype, shape, and the SHA-256 of its bytes."""
    return {name: _line(tensor) for name, tensor in tensors.items()}


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's bytes in the order of its elements; copied only if they don't lie so."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _line(tensor: Tensor) -> str:
    shape = ",".join(map(str, tensor.shape))
    return f"{tensor.dtype} [{shape}] {hashlib.sha256(bytes_of(tensor)).hexdigest()}"


def combine(parts: Iterable[Mapping[str, str]]) -> str:
    """The digest of all records together, in name order; names must not repeat."""
    merged: dict[str, str] = {}
    for part in parts:
        twice = merged.keys() & part.keys()
        assert not twice, f"tensors named twice: {sorted(twice)}"
        merged |= part
    lines = "".join(f"{name} {merged[name]}\n" for name in sorted(merged))
    return hashlib.sha256(lines.encode()).hexdigest()


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The digest of a set of tensors."""
    return combine([records(tensors)])


def block_records(block: int, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The records of one block's state, named so that blocks don't collide."""
    return {f"block{block:04d}/{name}": line for name, line in records(state).items()}


def of_run(
    homes: Iterable[Mapping[str, Tensor]], states: Iterable[Mapping[str, Tensor]]
) -> dict[str, str]:
    """A summary's two digests, from every block's home and whole state, lowest first."""
    weights = {name: tensor for home in homes for name, tensor in home.items()}
    parts = [block_records(k, state) for k, state in enumerate(states)]
    return {"weights_sha256": of_tensors(weights), "state_sha256": combine(parts)}
