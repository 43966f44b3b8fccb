"""A state as the bytes of a safetensors file, in pieces, so that it is copied once.

Written here, in the format that safetensors documents, because its own writer copies all tensors
once more; it is read back by safetensors.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runtime.digest import bytes_of
from runtime.state.image import Piece

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


def file_pieces(tensors: Mapping[str, Tensor]) -> list[Piece]:
    """A file of these tensors in pieces: the header, then each tensor's bytes, its own if it lies
    contiguous on the CPU. A tensor that has two names is there twice. Raises ValueError for a dtype
    that has no name."""
    return [_header(_entries(tensors, 0)), *map(bytes_of, tensors.values())]


def joined(file: memoryview, tensors: Mapping[str, Tensor]) -> list[Piece]:
    """A file in pieces that has the tensors of another one, and these, whose names differ."""
    (size,) = struct.unpack_from("<Q", file)
    body = file[8 + size :]
    entries = json.loads(bytes(file[8 : 8 + size])) | _entries(tensors, len(body))
    return [_header(entries), body, *map(bytes_of, tensors.values())]


def _entries(tensors: Mapping[str, Tensor], offset: int) -> dict[str, Any]:
    """What the header says of each tensor, if the first one's bytes begin at an offset."""
    entries = {}
    for name, tensor in tensors.items():
        dtype, end = DTYPES.get(tensor.dtype), offset + tensor.nbytes
        if dtype is None:
            raise ValueError(
                f"{name!r} is of {tensor.dtype}, which safetensors can't hold; store it as"
                " one of " + ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
            )
        entries[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    return entries


def _header(entries: Mapping[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
