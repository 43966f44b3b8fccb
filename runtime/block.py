"""The seam between how it runs and what is learned: one block's step, as the runtime sees it.

Owns the Protocol and the shapes of what crosses an edge. Knows nothing of networks: blocks that
learn live elsewhere, and slept or recorded ones in runtime.testing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from runtime.core.plan import Stream

Payload = tuple[Tensor, ...]


class Leaving(Protocol):
    """What a block has made, on its way to the host."""

    def done(self) -> bool:
        """Whether it is there, or has failed to come."""

    def wait(self) -> None:
        """Wait until it is there. Raises what it failed of."""


class Left:
    """What is on the host already."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        """It is there."""


LEFT = Left()


class Ties(Protocol):
    """What an update offers the neighbours; None if there is no tie on that side.

    `absent`: a tie was due and has no finite value, so that its term is left out.
    """

    @property
    def up(self) -> Payload | None: ...
    @property
    def down(self) -> Payload | None: ...
    @property
    def absent(self) -> bool: ...


class BlockStep(Protocol):
    """One block. The runtime calls forward, update, apply for step 0, 1, ... on one thread.

    Payloads handed in are read-only, and valid until the step's update (activations) or apply
    (ties) is done; payloads given out are CPU tensors, contiguous, and never written again once
    they are there.
    """

    @property
    def leaving(self) -> Leaving:
        """What the latest forward or update gave out: it may be read when this is done."""

    def expect(self, payload: Payload) -> None:
        """A payload is here that forward or apply is given later: it may be brought to where the
        block computes. Called on any thread."""

    def will_read(self, memory: Tensor) -> None:
        """Payloads will lie in this memory, as long as the process lives: a GPU may be let read
        there by itself. Called before the first step."""

    @property
    def loss(self) -> float:
        """The latest step's loss."""

    @property
    def num_bad_steps(self) -> int:
        """Steps so far that were left out, or their ties, for numbers that were not finite."""

    @property
    def probe_top1(self) -> float:
        """The online probe's running accuracy on training batches, in 0..1; NaN before any."""

    def forward(self, step: int, incoming: Payload | None) -> Payload | None:
        """Return what the block above receives, or None if there is none above."""

    def update(self, step: int) -> Ties:
        """Run everything that follows the home's forward up to the tie."""

    def apply(self, step: int, from_below: Payload | None, from_above: Payload | None) -> None:
        """Apply the partners' ties; None: that term is absent at this step. Of free gradients a
        payload holds the tensors of all messages that the step uses, one after another."""

    def home_state(self) -> Mapping[str, Tensor]:
        """The home's weights and buffers, by their names in the plain network."""

    def state(self) -> Mapping[str, Tensor]:
        """Everything the block holds, by name. What it goes on computing with are its own tensors,
        whose data may be moved between two steps, as `Module.to` moves it (`tensor.data`)."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave in another generation. Raises ValueError if
        it doesn't fit."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape and dtype (torch's name, such as "float32") of one tensor on an edge."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.torch_dtype.itemsize

    def empty(self) -> Tensor:
        """A fresh tensor of this spec; torch aligns its buffer to 64 bytes."""
        return torch.empty(self.shape, dtype=self.torch_dtype)

    def check(self, tensor: Tensor) -> None:
        """Raise ValueError unless the tensor is contiguous, on the CPU and of this spec."""
        found = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        if found != (self.shape, self.dtype) or not tensor.is_contiguous() or tensor.is_cuda:
            raise ValueError(
                f"a tensor of shape {found[0]}, {found[1]}, on {tensor.device} was to be sent"
                f" but {self.shape}, {self.dtype}, contiguous on the CPU was agreed"
            )


Specs = Mapping[Stream, tuple[TensorSpec, ...]]


def message_bytes(specs: tuple[TensorSpec, ...]) -> int:
    """The size of one message's tensors."""
    return sum(spec.size_bytes for spec in specs)
