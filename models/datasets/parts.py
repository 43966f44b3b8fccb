"""What a data set on the disk comes to, whatever its layout.

Owns the form in which readers hand over what they have read, and what a reader is. Knows nothing
of layouts.

Shapes: N images, C channels, H height, W width. A label of -1 means unlabelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from models.tell import Tell
from models.views import Views


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images (N, C, H, W) uint8 and their labels (N,) int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A data set as it was read; `test` is None if there is none, or if it was not wanted.

    `views`: those that suit it. `remarks`: what is odd about its files. `is_stratified`: the
    training images lie in the order of models.validation.stratified_order.
    """

    train: Split
    test: Split | None
    num_classes: int
    views: Views
    remarks: Sequence[str] = ()
    is_stratified: bool = False


class Reader(Protocol):
    """Reads the data set at a path.

    `wants_test`: whether the test images are read at all. `verifies`: whether the files' checksums
    are computed, for the remarks. Raises ValueError, with the remedy, for whatever is not there or
    not in its layout.
    """

    def __call__(self, path: Path, *, wants_test: bool, verifies: bool, tell: Tell) -> Parts: ...
