"""The tensors that a block computes on, in memory that outlives its worker.

Owns where each lies. Between two steps that memory is a whole state, in the midst of a step it is
none: its head says which. So a copy of it that a death cuts short can be made again from it, and a
second copy is not needed.

    head | slots, each at an aligned place | how the slots make a safetensors file
"""

import json
import mmap
import os
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from runtime.block import TensorSpec
from runtime.state.image import Piece
from runtime.state.mapped import SHARED, aligned, mapped_tensor
from runtime.state.safetensors_file import byte_view, header_of

STEP, LAYOUT, LAYOUT_BYTES = range(3)  # the head: step + 1 (0: no whole state), where the layout is
HEAD_BYTES = mmap.PAGESIZE


@dataclass
class Slot:
    """A place for one tensor; free if its owner is gone."""

    spec: TensorSpec
    offset: int
    tensor: Tensor
    owner: weakref.ref[Tensor]


class LiveState:
    """One generation's tensors, in a file of the keeper's. What lay there before is gone."""

    def __init__(self, path: str) -> None:
        self._path = path
        os.truncate(path, 0)
        self._end = 0
        self._head = memoryview(self._map(HEAD_BYTES)).cast("Q")
        self._slots: list[Slot] = []
        self._slot_of: dict[int, Slot] = {}  # by the tensor's id
        self._layout: list[tuple[str, int]] | None = None  # names, and where their slots lie
        self._pieces: list[Piece] = []

    def hold(self, state: Mapping[str, Tensor]) -> list[Piece]:
        """Have a state lie here, and return the pieces of a safetensors file of it.

        A tensor's data moves here the first time, if it is alone in a CPU tensor's memory: then
        there is nothing to do the next time. Others, such as a GPU's, are copied each time.
        """
        tensors = list(state.values())
        self._make_slots([tensor for tensor in tensors if self._find(tensor) is None])
        slots = [self._slot_of[id(tensor)] for tensor in tensors]
        for tensor, slot in zip(tensors, slots, strict=True):
            _move(tensor, slot.tensor)
        layout = [(name, slot.offset) for name, slot in zip(state, slots, strict=True)]
        if layout != self._layout:
            self._layout = layout
            self._lay_out(dict(zip(state, slots, strict=True)))
        return self._pieces

    def mark_whole(self, step: int) -> None:
        """Say that what lies here is the state before a step."""
        self._head[STEP] = step + 1

    def mark_changing(self) -> None:
        """Say that what lies here is not whole any more."""
        self._head[STEP] = 0

    def _map(self, size_bytes: int) -> mmap.mmap:
        """Map more of the file, behind what is mapped."""
        begin, self._end = self._end, self._end + _whole_pages(size_bytes)
        with Path(self._path).open("r+b") as file:
            os.ftruncate(file.fileno(), self._end)
            return mmap.mmap(file.fileno(), self._end - begin, SHARED, offset=begin)

    def _find(self, tensor: Tensor) -> Slot | None:
        slot = self._slot_of.get(id(tensor))
        return slot if slot is not None and slot.owner() is tensor else None

    def _make_slots(self, tensors: Iterable[Tensor]) -> None:
        """Give each tensor a slot: one whose owner is gone, its own place first, or a new one."""
        free: dict[TensorSpec, dict[int, Slot]] = {}
        for slot in self._slots:
            if slot.owner() is None:
                free.setdefault(slot.spec, {})[slot.tensor.data_ptr()] = slot
        homeless = []
        for tensor in tensors:
            fitting = free.get(_spec(tensor), {})
            if tensor.data_ptr() in fitting:  # another object for what lies there already
                self._let(fitting.pop(tensor.data_ptr()), tensor)
            else:
                homeless.append(tensor)
        newcomers = []
        for tensor in homeless:
            if fitting := free.get(_spec(tensor), {}):
                self._let(fitting.popitem()[1], tensor)
            else:
                newcomers.append(tensor)
        self._build(newcomers)

    def _build(self, tensors: list[Tensor]) -> None:
        """Make new slots, behind all that are there."""
        size_bytes = sum(aligned(tensor.nbytes) for tensor in tensors)
        begin, offset = self._end, 0
        memory = self._map(size_bytes) if size_bytes else None
        for tensor in tensors:
            spec = _spec(tensor)
            place = spec.empty() if memory is None else mapped_tensor(memory, offset, spec)
            slot = Slot(spec, begin + offset, place, weakref.ref(tensor))
            self._slots.append(slot)
            self._let(slot, tensor)
            offset += aligned(tensor.nbytes)

    def _let(self, slot: Slot, tensor: Tensor) -> None:
        slot.owner = weakref.ref(tensor)
        self._slot_of[id(tensor)] = slot

    def _lay_out(self, slots: Mapping[str, Slot]) -> None:
        """Note, for this generation and the next, which bytes here make a safetensors file."""
        header = header_of({name: slot.tensor for name, slot in slots.items()})
        self._pieces = [header, *(byte_view(slot.tensor) for slot in slots.values())]
        places = [[slot.offset, slot.tensor.nbytes] for slot in slots.values()]
        layout = json.dumps([header.decode("latin-1"), places]).encode()
        with Path(self._path).open("r+b") as file:
            file.seek(self._end)
            file.write(layout)
        self._head[LAYOUT], self._head[LAYOUT_BYTES] = self._end, len(layout)


def whole_state(path: str) -> tuple[int, list[Piece]] | None:
    """The state that lies whole where a generation has ended, before which step, and as the pieces
    of a safetensors file; None if it ended in the midst of a step."""
    if not Path(path).stat().st_size:
        return None
    with Path(path).open("rb") as file:
        memory = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    head = memory[:HEAD_BYTES].cast("Q")
    step_1, begin, size = head[STEP], head[LAYOUT], head[LAYOUT_BYTES]
    if step_1 == 0:
        return None
    header, places = json.loads(bytes(memory[begin : begin + size]))
    pieces = [memory[begin : begin + length] for begin, length in places]
    return step_1 - 1, [header.encode("latin-1"), *pieces]


def _spec(tensor: Tensor) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(shape=tuple(tensor.shape), dtype=dtype)


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _move(tensor: Tensor, place: Tensor) -> None:
    """Copy a tensor to its place unless it lies there, and let it lie there if it may."""
    if tensor.data_ptr() == place.data_ptr():
        return
    place.copy_(tensor.detach())
    owns_memory = tensor.untyped_storage().nbytes() == tensor.nbytes > 0
    if owns_memory and tensor.device == place.device and tensor.stride() == place.stride():
        tensor.data = place
