"""What comes to a block, on its way to the block's device before it is needed.

Owns the copies between the coming of a message and the step that uses it. A block on the host uses
a message where it lies.
"""

import torch
from torch import Tensor

from models.copies import Copies, Copy
from models.side_stream import used_by_compute


class Arrivals:
    """`expect` may be called by any thread, `take` by the one that computes."""

    def __init__(self, copies: Copies, device: torch.device) -> None:
        self._copies = copies
        self._device = device
        self._coming: dict[int, tuple[Tensor, Tensor, Copy]] = {}  # by the source's identity

    def expect(self, source: Tensor) -> None:
        """Begin to bring a tensor to the device; whoever does must take it."""
        if not self._is_there(source):
            here = self._copies.empty_on_device(source)
            self._coming[id(source)] = source, here, self._copies.copy_async(source, here)

    def take(self, source: Tensor) -> Tensor:
        """The tensor on the device, whether it was expected or not: itself, or a copy that needs
        its source no more."""
        if self._is_there(source):
            return source
        if id(source) not in self._coming:
            self.expect(source)
        _, here, copy = self._coming.pop(id(source))
        copy.wait()
        return used_by_compute(here)

    def _is_there(self, tensor: Tensor) -> bool:
        return tensor.device.type == self._device.type
