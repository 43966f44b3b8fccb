"""CIFAR-10 and CIFAR-100 in their binary layout (https://www.cs.toronto.edu/~kriz/cifar.html).

Owns the layout: a record is a label byte (CIFAR-100: a coarse one, which is passed over, and a
fine one), and 32x32 red, then green, then blue bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.datasets.parts import Parts, Split
from models.datasets.published import (
    CIFAR10,
    CIFAR100,
    Published,
    checksum_remarks,
    find_file,
    find_folder,
    md5_of_file,
)
from models.datasets.raw_files import num_records, read_records
from models.simclr_views import SMALL
from models.tell import Tell

SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`label_bytes` come before an image, of which the last is the class."""

    published: Published
    train: Sequence[str]
    test: str
    label_bytes: int
    num_classes: int


TEN = Layout(
    published=CIFAR10,
    train=[f"data_batch_{i}.bin" for i in range(1, 6)],
    test="test_batch.bin",
    label_bytes=1,
    num_classes=10,
)
HUNDRED = Layout(
    published=CIFAR100, train=["train.bin"], test="test.bin", label_bytes=2, num_classes=100
)


def read_cifar10(path: Path, *, wants_test: bool, verifies: bool, tell: Tell) -> Parts:
    """Read CIFAR-10 (models.datasets.parts.Reader)."""
    del tell  # it takes less than a second
    return _read(path, TEN, wants_test=wants_test, verifies=verifies)


def read_cifar100(path: Path, *, wants_test: bool, verifies: bool, tell: Tell) -> Parts:
    """Read CIFAR-100 with its fine labels (models.datasets.parts.Reader)."""
    del tell
    return _read(path, HUNDRED, wants_test=wants_test, verifies=verifies)


def _read(path: Path, layout: Layout, *, wants_test: bool, verifies: bool) -> Parts:
    published = layout.published
    folder = find_folder(path, published, layout.train[0])
    train = [find_file(folder, name, published) for name in layout.train]
    test = [find_file(folder, layout.test, published)] if wants_test else []
    md5 = {file.name: md5_of_file(file) for file in (*train, *test)} if verifies else {}
    return Parts(
        train=_read_split(train, layout),
        test=_read_split(test, layout) if test else None,
        num_classes=layout.num_classes,
        views=SMALL,
        remarks=checksum_remarks(md5, [published], folder),
    )


def _read_split(files: Sequence[Path], layout: Layout) -> Split:
    record_bytes = layout.label_bytes + IMAGE_BYTES
    counts = [num_records(file, record_bytes) for file in files]
    images_NCHW = np.empty((sum(counts), *SHAPE), dtype=np.uint8)
    labels_N = np.empty(sum(counts), dtype=np.int64)
    begin = 0
    for file, count in zip(files, counts, strict=True):
        records = read_records(file, record_bytes, count=count)
        _check_labels(records[:, layout.label_bytes - 1], file, layout)
        labels_N[begin : begin + count] = records[:, layout.label_bytes - 1]
        images_NCHW[begin : begin + count] = records[:, layout.label_bytes :].reshape(-1, *SHAPE)
        begin += count
    return Split(images=torch.from_numpy(images_NCHW), labels=torch.from_numpy(labels_N))


def _check_labels(labels_N: np.ndarray, file: Path, layout: Layout) -> None:
    wrong = np.flatnonzero(labels_N >= layout.num_classes)
    if len(wrong):
        raise ValueError(
            f"record {wrong[0]} of {file} has label {labels_N[wrong[0]]}, where"
            f" {layout.published.name} has 0 to {layout.num_classes - 1}: it is another kind of"
            " file; unpack or download it anew"
        )
