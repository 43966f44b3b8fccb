"""The tensors that a block computes on, in memory that outlives its worker.

Owns where each lies. Between two steps that memory holds a whole state, but not in the midst of a
step: its head says which. So a copy of it that a death cuts short can be made again from it, and a
second copy is not needed. It is as large as the most that has lain there: what is not used any more
is used again for tensors of the same shape, and not given back.

    head | slots, each at an aligned place | how the slots make a safetensors file
"""

import json
import mmap
import os
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from runtime.block import TensorSpec
from runtime.state.image import Piece
from runtime.state.mapped import SHARED, aligned, mapped_tensor
from runtime.state.safetensors_file import file_pieces

STEP, LAYOUT, LAYOUT_BYTES = range(3)  # the head: step + 1 (0: no whole state), where the layout is
HEAD_BYTES = mmap.PAGESIZE


@dataclass
class Slot:
    """A place for one tensor; free if its owner is gone."""

    spec: TensorSpec
    offset: int
    tensor: Tensor
    owner: Callable[[], Tensor | None]


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
        there is nothing to do the next time. Others are copied each time: a GPU's, and those that
        share their memory, which must not be parted.
        """
        tensors = list(state.values())
        users = Counter(map(_memory, tensors))
        newcomers = [tensor for tensor in tensors if self._find(tensor, users.keys()) is None]
        self._make_slots(newcomers, in_use=users.keys())
        slots = [self._slot_of[id(tensor)] for tensor in tensors]
        for tensor, slot in zip(tensors, slots, strict=True):
            _copy(tensor, slot.tensor, moves=users[_memory(tensor)] == 1)
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

    def _find(self, tensor: Tensor, in_use: Collection[int]) -> Slot | None:
        """A tensor's slot. It loses that if its data was replaced, by one of another form, or while
        other data lie in the slot: another tensor's, or its own turned otherwise."""
        slot = self._slot_of.get(id(tensor))
        if slot is None or slot.owner() is not tensor:
            return None
        is_free = slot.tensor.data_ptr() not in in_use
        if slot.spec != _spec(tensor) or not (is_free or _lies_at(tensor, slot.tensor)):
            slot.owner = _nobody
            return None
        return slot

    def _make_slots(self, tensors: Iterable[Tensor], *, in_use: Collection[int]) -> None:
        """Give each tensor a slot: one whose owner is gone, its own place first, or a new one.
        `in_use` is memory on which tensors still are, whoever owned them first."""
        free: dict[TensorSpec, dict[int, Slot]] = {}
        for slot in self._slots:
            if slot.owner() is None:
                free.setdefault(slot.spec, {})[slot.tensor.data_ptr()] = slot
        homeless = []
        for tensor in tensors:
            fitting = free.get(_spec(tensor), {})
            here = fitting.get(tensor.data_ptr())
            if here is not None and _lies_at(tensor, here.tensor):
                self._let(fitting.pop(tensor.data_ptr()), tensor)
            else:
                homeless.append(tensor)
        newcomers = []
        for tensor in homeless:
            fitting = free.get(_spec(tensor), {})
            place = next((place for place in fitting if place not in in_use), None)
            if place is None:
                newcomers.append(tensor)
            else:
                self._let(fitting.pop(place), tensor)
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
        self._pieces = file_pieces({name: slot.tensor for name, slot in slots.items()})
        header = bytes(self._pieces[0])
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


def _memory(tensor: Tensor) -> int:
    """Where the memory begins that a tensor is in: equal for tensors that share it. Of nothing
    there is none to share."""
    return tensor.untyped_storage().data_ptr() or id(tensor)


def _lies_at(tensor: Tensor, place: Tensor) -> bool:
    """Whether the bytes at a place, in order, are a tensor's."""
    is_plain = not (tensor.is_conj() or tensor.is_neg())
    same_order = tensor.stride() == place.stride() or not tensor.numel()
    return tensor.data_ptr() == place.data_ptr() and same_order and is_plain


def _nobody() -> None:
    """The owner of a place that is free."""


def _copy(tensor: Tensor, place: Tensor, *, moves: bool) -> None:
    """Copy a tensor to its place unless it lies there; with `moves` it lies there from now on, if
    that can be."""
    if _lies_at(tensor, place):
        return
    place.copy_(tensor.detach())
    owns_memory = tensor.untyped_storage().nbytes() == tensor.nbytes > 0
    is_alike = tensor.device == place.device and tensor.stride() == place.stride()
    if moves and owns_memory and is_alike:
        tensor.data = place
