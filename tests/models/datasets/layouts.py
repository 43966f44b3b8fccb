"""Tiny data sets in the true layouts, written for tests."""

import gzip
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(count: int, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Random bytes (count, *shape)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_cifar10(root: Path, *, per_file: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Write cifar-10-batches-bin and return all images, the test's last, and their labels."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    images = pixels(6 * per_file, (3, 32, 32))
    labels = (np.arange(6 * per_file) % 10).astype(np.uint8)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for i, name in enumerate(names):
        rows = slice(i * per_file, (i + 1) * per_file)
        records = np.concatenate([labels[rows, None], images[rows].reshape(per_file, -1)], axis=1)
        records.tofile(folder / name)
    return images, labels


def write_cifar100(root: Path, *, train: int = 6, test: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Write cifar-100-binary and return all images, the test's last, and their fine labels."""
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    images, fine = pixels(train + test, (3, 32, 32)), np.arange(train + test, dtype=np.uint8) + 90
    coarse = np.full_like(fine, 19)
    records = np.concatenate([coarse[:, None], fine[:, None], images.reshape(len(fine), -1)], 1)
    records[:train].tofile(folder / "train.bin")
    records[train:].tofile(folder / "test.bin")
    return images, fine


def idx_bytes(values: np.ndarray) -> bytes:
    """Values as an IDX file has them."""
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, dtype=">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


def write_idx(
    root: Path, *, train: int = 7, test: int = 3, mark: str = "-", zipped: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Write four IDX files and return all images (N, 5, 4), the test's last, and their labels."""
    root.mkdir(parents=True, exist_ok=True)
    images, labels = pixels(train + test, (5, 4)), np.arange(train + test) % 3
    for split, rows in (("train", slice(0, train)), ("t10k", slice(train, None))):
        for part, values in (("images", images[rows]), ("labels", labels[rows])):
            name = f"{split}-{part}{mark}idx{values.ndim}-ubyte"
            content = idx_bytes(values)
            if zipped:
                (root / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (root / name).write_bytes(content)
    return images, labels


def write_stl10(
    root: Path, *, train: int = 12, test: int = 4, unlabelled: int = 0
) -> dict[str, np.ndarray]:
    """Write stl10_binary and return each part's images (N, 3, 96, 96), and labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        labels = (np.arange(count) * 3 // count + 1).astype(np.uint8)
        labels.tofile(folder / f"{split}_y.bin")
        written[f"{split}_labels"] = labels
        written[split] = pixels(count, (3, 96, 96), seed=seed)
    if unlabelled:
        written["unlabeled"] = pixels(unlabelled, (3, 96, 96), seed=9)
    for split in ("train", "test", "unlabeled"):
        if split in written:
            by_columns = written[split].swapaxes(2, 3)
            np.ascontiguousarray(by_columns).tofile(folder / f"{split}_X.bin")
    return written


def save_image(file: Path, pixels_HWC: np.ndarray, **options: object) -> None:
    """Save an image, grey if it has no third dimension, by the file's suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HWC).save(file, **options)


def write_folder(
    root: Path, *, train: int = 6, test: int = 2, shape: tuple[int, ...] = (8, 8, 3)
) -> None:
    """Write images of the classes cat and dog, in turn, whose brightness is their number."""
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            name = ("cat", "dog")[i % 2]
            level = np.full(shape, (100 if split == "test" else 0) + i, dtype=np.uint8)
            save_image(root / split / name / f"{i}.png", level)
