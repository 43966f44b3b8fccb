"""Hot snapshots of a worker's block, in memory that outlives the worker.

Owns how a state becomes bytes: those of a safetensors file. Two places are written in turn, so
that a death while one is being written leaves the other.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from runtime.state.image import read_image, write_image

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


def image_of(tensors: Mapping[str, Tensor]) -> bytearray:
    """The bytes of a state: a safetensors file.

    Written here, in the format that safetensors documents, because its own writer takes 50 us a
    tensor and this runs every few steps; it is read back by safetensors.
    """
    flat = {
        name: tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        for name, tensor in tensors.items()
    }
    offset, entries = 0, {}
    for name, raw in flat.items():
        dtype, shape = DTYPES.get(tensors[name].dtype), list(tensors[name].shape)
        if dtype is None:
            raise ValueError(
                f"{name!r} is of {tensors[name].dtype}, which safetensors can't hold; store it as"
                " one of " + ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
            )
        span = [offset, offset + raw.numel()]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        offset = span[1]
    return _image(entries, list(flat.values()))


def _image(entries: Mapping[str, Any], raw: list[Tensor]) -> bytearray:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    image = bytearray(8 + len(text) + sum(map(len, raw)))
    image[: 8 + len(text)] = struct.pack("<Q", len(text)) + text
    if len(image) > 8 + len(text):
        torch.cat(raw, out=torch.frombuffer(image, dtype=torch.uint8)[8 + len(text) :])
    return image


def joined(first: bytearray, second: bytearray) -> bytearray:
    """One image of the tensors of two, whose names differ."""
    entries: dict[str, Any] = {}
    parts: list[Tensor] = []
    for image in (first, second):
        (size,) = struct.unpack_from("<Q", image)
        shift = sum(map(len, parts))
        for name, entry in json.loads(image[8 : 8 + size]).items():
            span = [shift + place for place in entry["data_offsets"]]
            entries[name] = entry | {"data_offsets": span}
        parts.append(torch.frombuffer(image, dtype=torch.uint8)[8 + size :])
    return _image(entries, parts)


class Snapshots:
    """A worker's two places for snapshots."""

    def __init__(self, paths: tuple[str, str]) -> None:
        self._paths = paths
        found = {path: read_image(path) for path in paths}
        whole = {path: image[0] for path, image in found.items() if image is not None}
        newest = max(whole, key=lambda path: whole[path], default=paths[1])
        self._latest = found[newest]
        self._next = self._paths.index(newest) ^ 1

    def take(self, step: int, image: bytes | bytearray) -> None:
        """Store the state before `step`, in the place of the older one."""
        write_image(self._paths[self._next], step, image)
        self._next ^= 1

    def latest(self) -> tuple[int, dict[str, Tensor]] | None:
        """What an earlier generation left: its newest whole snapshot. Gives it once."""
        latest, self._latest = self._latest, None
        if latest is None:
            return None
        step, image = latest
        return step, safetensors.torch.load(image)
