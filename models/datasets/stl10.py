"""STL-10 in its binary layout (https://cs.stanford.edu/~acoates/stl10).

Owns the layout: an image is 96x96 red, then green, then blue bytes, each column by column; labels
are bytes from 1 to 10, in a file of their own. The unlabelled part, if it is there, joins the
training images with label -1, which no probe and no evaluation sees.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.datasets import cache
from models.datasets.parts import Parts, Split
from models.datasets.progress import Progress
from models.datasets.published import STL10, checksum_remarks, find_file, find_folder, md5_of_file
from models.datasets.raw_files import fingerprint, num_records, read_records
from models.paths import is_file
from models.simclr_views import LARGE
from models.tell import Tell
from models.validation import stratified_order

SHAPE = (3, 96, 96)
IMAGE_BYTES = 3 * 96 * 96
NUM_CLASSES = 10
UNLABELLED = "unlabeled_X.bin"
PER_READ = 512  # images


def read_stl10(path: Path, *, wants_test: bool, verifies: bool, tell: Tell) -> Parts:
    """Read STL-10 (models.datasets.parts.Reader), the training images in stratified order."""
    folder = find_folder(path, STL10, "train_X.bin")
    labels_N = _labels(folder, "train")
    test_labels_N = _labels(folder, "test") if wants_test else None
    md5 = {}
    if verifies:
        tell(f"computing the checksums of {folder}")
        used = (name for name in STL10.md5 if wants_test or not name.startswith("test"))
        md5 = {name: md5_of_file(folder / name) for name in used if is_file(folder / name)}
    unlabelled = folder / UNLABELLED
    num_unlabelled = num_records(unlabelled, IMAGE_BYTES) if is_file(unlabelled) else 0
    order = stratified_order(labels_N)
    return Parts(
        train=Split(
            images=_train_images(folder, order, num_unlabelled, tell),
            labels=torch.from_numpy(np.concatenate([np.full(num_unlabelled, -1), labels_N[order]])),
        ),
        test=None if test_labels_N is None else _test(folder, test_labels_N),
        num_classes=NUM_CLASSES,
        views=LARGE,
        remarks=checksum_remarks(md5, [STL10], folder),
        is_stratified=True,
    )


def _labels(folder: Path, split: str) -> np.ndarray:
    """A split's labels (N,) from 0, one for each of its images."""
    images_file = find_file(folder, f"{split}_X.bin", STL10)
    labels_file = find_file(folder, f"{split}_y.bin", STL10)
    labels_N = read_records(labels_file, 1)[:, 0].astype(np.int64)
    num_images = num_records(images_file, IMAGE_BYTES)
    if len(labels_N) != num_images:
        raise ValueError(
            f"{images_file} holds {num_images:,} images, {labels_file} {len(labels_N):,} labels;"
            f" unpack {STL10.url} anew"
        )
    wrong = np.flatnonzero((labels_N < 1) | (labels_N > NUM_CLASSES))
    if len(wrong):
        raise ValueError(
            f"{labels_file} has label {labels_N[wrong[0]]} at {wrong[0]}, where STL-10 has 1 to"
            f" {NUM_CLASSES}; unpack {STL10.url} anew"
        )
    return labels_N - 1


def _test(folder: Path, labels_N: np.ndarray) -> Split:
    images = _read(folder / "test_X.bin", 0, len(labels_N))
    return Split(images=torch.from_numpy(images), labels=torch.from_numpy(labels_N))


def _train_images(folder: Path, order: np.ndarray, num_unlabelled: int, tell: Tell) -> Tensor:
    """The unlabelled images, then the labelled ones in an order: in memory, or mapped if they are
    too many for it."""
    shape = (num_unlabelled + len(order), *SHAPE)

    def fill(images_NCHW: np.ndarray, progress: Progress) -> None:
        for begin in range(0, num_unlabelled, PER_READ):
            end = min(begin + PER_READ, num_unlabelled)
            images_NCHW[begin:end] = _read(folder / UNLABELLED, begin, end - begin)
            progress.advance(end - begin)
        images_NCHW[num_unlabelled:] = _read(folder / "train_X.bin", 0, len(order))[order]
        progress.advance(len(order))

    def prepare(_: Progress) -> tuple[cache.Shape, cache.Fill]:
        return shape, fill

    images = cache.in_memory(prepare, what=str(folder), tell=tell)
    if images is not None:
        return images
    files = [folder / "train_X.bin", *([folder / UNLABELLED] if num_unlabelled else [])]
    content = "\0".join(fingerprint(file, folder) for file in files)
    try:
        return cache.mapped(
            prepare, place=str(folder), content=content, what=str(folder), tell=tell
        )
    except cache.NoRoom as error:
        raise cache.too_large(error, f"take {UNLABELLED} away") from error


def _read(file: Path, first: int, count: int) -> np.ndarray:
    """Images (count, C, H, W) from a file that has them column by column."""
    records = read_records(file, IMAGE_BYTES, first, count)
    return np.ascontiguousarray(records.reshape(-1, *SHAPE).swapaxes(2, 3))
