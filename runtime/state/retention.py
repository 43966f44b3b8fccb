"""What a worker has sent and must be able to send again, in memory that outlives it.

Owns the layout: a ring of slots for each outgoing stream, a header and tensors in each. A message
lies in slot `step % slots` until another takes the slot, which the core allows only when the
receiver's snapshot covers it. Nothing is deleted before: a checkpoint may need ties that their
receiver has used up already. A neighbour on the same host reads messages where they lie.
"""

import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from runtime.block import Payload, Specs, TensorSpec
from runtime.core.plan import Stream, WorkerPlan
from runtime.core.streams import ProtocolError
from runtime.state.mapped import ALIGNMENT_BYTES, SHARED, aligned, mapped_tensor

CHUNK_BYTES = 1 << 18  # copied, then hashed while it is still in the cache
CHECKSUM_BYTES = 16
EMPTY, PRESENT, ABSENT = 0, 1, 2


class Hash(Protocol):
    """Takes bytes in order; `digest` has at most CHECKSUM_BYTES."""

    def update(self, data: memoryview, /) -> object: ...
    def digest(self) -> bytes: ...


@dataclass(frozen=True)
class Slot:
    """One message's place: `header` holds its step, whether it is here, and its checksum in two
    words, if it has one; then its tensors."""

    header: Tensor
    tensors: Payload


Rings = Mapping[Stream, list[Slot]]


class Retention:
    """The rings of one worker. `path` is a file of the keeper's; a first generation's is empty.

    What is retained of a stream that has a `hash` gets a checksum over its tensors' bytes.
    """

    def __init__(self, path: str, plan: WorkerPlan, specs: Specs) -> None:
        self.path = path
        self._plan = plan
        self._compares = plan.free is None
        self.hash: dict[Stream, Callable[[], Hash]] = {}
        self.size_bytes = _size_bytes(plan, specs)
        self._rings: Rings = {}
        if not self.size_bytes:
            return
        with Path(path).open("r+b") as file:
            os.ftruncate(file.fileno(), self.size_bytes)
            memory = mmap.mmap(file.fileno(), self.size_bytes, SHARED)
        self._rings = _rings(memory, plan, specs)

    def put(self, stream: Stream, step: int, payload: Payload | None) -> None:
        """Retain a message (None: absent) by copying it; the one that was in its slot is gone.

        One that an earlier generation has retained is left as it lies, and so is a later one, for a
        neighbour may be reading it: what it has taken the place of is not wanted any more. Raises
        ProtocolError if what is made again differs from what is retained, unless ties are free.
        """
        slot = self._slot(stream, step)
        held, state, *_ = slot.header.tolist()
        if held == step and state == PRESENT and not self._compares:
            return
        if held == step and state != EMPTY and self._compares:
            if state != _state(payload) or not all(map(_equal, slot.tensors, payload or ())):
                raise ProtocolError(
                    f"{stream.value} {step} was made again with different contents:"
                    " this block is not deterministic"
                )
            return
        if held > step and state != EMPTY:
            return
        slot.header[1] = EMPTY
        if payload is not None:
            checksum = self._copy(slot, payload, self.hash.get(stream))
            slot.header[2:] = torch.from_numpy(np.frombuffer(checksum, dtype=np.int64).copy())
        slot.header[0] = step
        slot.header[1] = _state(payload)

    def _copy(self, slot: Slot, payload: Payload, make: Callable[[], Hash] | None) -> bytes:
        """Copy a message into its slot; return its checksum (0: none), as the slot has it."""
        if make is None:
            for place, tensor in zip(slot.tensors, payload, strict=True):
                place.copy_(tensor)
            return bytes(CHECKSUM_BYTES)
        digest = make()
        for place, tensor in zip(slot.tensors, payload, strict=True):
            to, source = _flat(place).numpy(), _flat(tensor).numpy()  # torch takes longer a chunk
            for first in range(0, len(to), CHUNK_BYTES):
                chunk = to[first : first + CHUNK_BYTES]
                chunk[:] = source[first : first + CHUNK_BYTES]
                digest.update(chunk.data)
        return digest.digest().rjust(CHECKSUM_BYTES, b"\0")

    def checksum(self, stream: Stream, step: int) -> int:
        """The checksum of a retained message; 0 if none was asked for."""
        return int.from_bytes(self._slot(stream, step).header[2:].numpy().tobytes())

    def get(self, stream: Stream, step: int) -> Payload:
        """The tensors of a retained message, in place; () if it is absent."""
        slot = self._slot(stream, step)
        found, state, *_ = slot.header.tolist()
        assert found == step, (stream, step, found)
        assert state != EMPTY, (stream, step)
        return slot.tensors if state == PRESENT else ()

    def retained(self, before: int) -> dict[Stream, dict[int, bool]]:
        """For each stream the messages just below step `before`, and whether each is absent; of a
        free tie the newest one."""
        return {
            stream: self._newest(ring, before)
            if self._plan.is_free(stream)
            else self._kept(ring, before)
            for stream, ring in self._rings.items()
        }

    def _newest(self, ring: list[Slot], before: int) -> dict[int, bool]:
        headers = [slot.header.tolist() for slot in ring]
        steps = [held for held, state, *_ in headers if state == PRESENT and held < before]
        return {max(steps): False} if steps else {}

    def _kept(self, ring: list[Slot], before: int) -> dict[int, bool]:
        found: dict[int, bool] = {}
        for step in range(before - 1, max(before - 1 - len(ring), -1), -1):
            held, state, *_ = ring[step % len(ring)].header.tolist()
            if held != step or state == EMPTY:
                break
            found[step] = state == ABSENT
        return found

    def _slot(self, stream: Stream, step: int) -> Slot:
        ring = self._rings[stream]
        return ring[step % len(ring)]


class NeighboursRetention:
    """The rings of a neighbour on this host, to be read only: a write to them is SIGSEGV.

    Raises OSError if `path` can't be opened here (another host, user or process namespace),
    ValueError if it holds no such rings.
    """

    def __init__(self, path: str, plan: WorkerPlan, specs: Specs) -> None:
        self._rings: Rings = {}
        size_bytes = _size_bytes(plan, specs)
        self.memory = torch.empty(0, dtype=torch.uint8)  # all of it
        if not size_bytes:
            return
        with Path(path).open("rb") as file:
            memory = mmap.mmap(file.fileno(), size_bytes, SHARED, mmap.PROT_READ)
        self.memory = mapped_tensor(memory, 0, TensorSpec(shape=(size_bytes,), dtype="uint8"))
        self._rings = _rings(memory, plan, specs)

    def find(self, stream: Stream, step: int) -> Payload | None:
        """The tensors of a message, in place; None if its slot holds something else."""
        ring = self._rings[stream]
        slot = ring[step % len(ring)]
        return slot.tensors if slot.header[:2].tolist() == [step, PRESENT] else None


def _state(payload: Payload | None) -> int:
    return ABSENT if payload is None else PRESENT


def _equal(retained: Tensor, made: Tensor) -> bool:
    """Bit for bit: torch.equal holds no NaN for equal to itself."""
    return torch.equal(_flat(retained), _flat(made))


def _flat(tensor: Tensor) -> Tensor:
    """A tensor's bytes."""
    return tensor.reshape(-1).view(torch.uint8)


def _size_bytes(plan: WorkerPlan, specs: Specs) -> int:
    return sum(
        (window.max_retained or 0) * _slot_bytes(specs[stream])
        for stream, window in plan.outgoing.items()
    )


def _rings(memory: mmap.mmap, plan: WorkerPlan, specs: Specs) -> Rings:
    """The slots, stream after stream in the order of their enum."""
    rings: dict[Stream, list[Slot]] = {}
    offset = 0
    for stream in Stream:
        if stream not in plan.outgoing:
            continue
        room = plan.outgoing[stream].max_retained
        assert room is not None, "a worker that may restart has a bound on what it retains"
        rings[stream] = []
        for _ in range(room):
            rings[stream].append(_slot(memory, offset, specs[stream]))
            offset += _slot_bytes(specs[stream])
    return rings


def _slot_bytes(specs: tuple[TensorSpec, ...]) -> int:
    return ALIGNMENT_BYTES + sum(aligned(spec.size_bytes) for spec in specs)


def _slot(memory: mmap.mmap, offset: int, specs: tuple[TensorSpec, ...]) -> Slot:
    header = mapped_tensor(memory, offset, TensorSpec(shape=(4,), dtype="int64"))
    offset += ALIGNMENT_BYTES
    tensors = []
    for spec in specs:
        tensors.append(mapped_tensor(memory, offset, spec))
        offset += aligned(spec.size_bytes)
    return Slot(header=header, tensors=tuple(tensors))
