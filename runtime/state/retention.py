"""What a worker has sent and must be able to send again, in memory that outlives it.

Owns the layout: a ring of slots for each outgoing stream, a header and tensors in each. A message
lies in slot `step % slots` until another takes the slot, which the core allows only when the
receiver's snapshot covers it. Nothing is deleted before: a checkpoint may need ties that their
receiver has used up already.
"""

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime.core.plan import Stream, WorkerPlan
from runtime.step import Payload, TensorSpec

ALIGNMENT_BYTES = 64
EMPTY, PRESENT, ABSENT = 0, 1, 2

Specs = Mapping[Stream, tuple[TensorSpec, ...]]


@dataclass(frozen=True)
class Slot:
    """One message's place: `header` holds its step and whether it is here; then its tensors."""

    header: Tensor
    tensors: Payload


class Retention:
    """The rings of one worker. `path` is a file of the keeper's; a first generation's is empty."""

    def __init__(self, path: str, plan: WorkerPlan, specs: Specs) -> None:
        rooms = {stream: window.max_retained for stream, window in plan.outgoing.items()}
        self.size_bytes = sum(
            (room or 0) * _slot_bytes(specs[stream]) for stream, room in rooms.items()
        )
        self._rings: dict[Stream, list[Slot]] = {}
        if not self.size_bytes:
            return
        with Path(path).open("r+b") as file:
            os.ftruncate(file.fileno(), self.size_bytes)
            memory = mmap.mmap(file.fileno(), self.size_bytes)
        offset = 0
        for stream, room in rooms.items():
            assert room is not None, "a worker that may restart has a bound on what it keeps"
            ring = []
            for _ in range(room):
                ring.append(_slot(memory, offset, specs[stream]))
                offset += _slot_bytes(specs[stream])
            self._rings[stream] = ring

    def put(self, stream: Stream, step: int, payload: Payload | None) -> None:
        """Keep a message (None: absent) by copying it; the one that was in its slot is gone."""
        slot = self._slot(stream, step)
        slot.header[1] = EMPTY
        for place, tensor in zip(slot.tensors, payload or (), strict=payload is not None):
            place.copy_(tensor)
        slot.header[0] = step
        slot.header[1] = ABSENT if payload is None else PRESENT

    def get(self, stream: Stream, step: int) -> Payload:
        """The tensors of a message that is kept, in place; () where it is absent."""
        slot = self._slot(stream, step)
        found, state = slot.header.tolist()
        assert found == step, (stream, step, found)
        assert state != EMPTY, (stream, step)
        return slot.tensors if state == PRESENT else ()

    def kept(self, before: int) -> dict[Stream, dict[int, bool]]:
        """For each stream the messages just below step `before`, and whether each is absent."""
        return {stream: self._kept(ring, before) for stream, ring in self._rings.items()}

    def _kept(self, ring: list[Slot], before: int) -> dict[int, bool]:
        found: dict[int, bool] = {}
        for step in range(before - 1, max(before - 1 - len(ring), -1), -1):
            held, state = ring[step % len(ring)].header.tolist()
            if held != step or state == EMPTY:
                break
            found[step] = state == ABSENT
        return found

    def _slot(self, stream: Stream, step: int) -> Slot:
        ring = self._rings[stream]
        return ring[step % len(ring)]


def _slot_bytes(specs: tuple[TensorSpec, ...]) -> int:
    return ALIGNMENT_BYTES + sum(_aligned(spec.size_bytes) for spec in specs)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _slot(memory: mmap.mmap, offset: int, specs: tuple[TensorSpec, ...]) -> Slot:
    header = torch.frombuffer(memory, dtype=torch.int64, count=2, offset=offset)
    offset += ALIGNMENT_BYTES
    tensors = []
    for spec in specs:
        count = spec.size_bytes // spec.torch_dtype.itemsize
        if count:
            flat = torch.frombuffer(memory, dtype=spec.torch_dtype, count=count, offset=offset)
            tensors.append(flat.view(spec.shape))
        else:
            tensors.append(spec.empty())
        offset += _aligned(spec.size_bytes)
    return Slot(header=header, tensors=tuple(tensors))
