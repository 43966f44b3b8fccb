"""IDX files, in which MNIST and Fashion-MNIST are published, gzipped or not.

Owns the layout: two zero bytes, the type of the values (8: unsigned bytes), the number of
dimensions, their sizes as big-endian 32-bit figures, and the values.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from models.datasets.parts import Parts, Split
from models.datasets.published import FASHION_MNIST, MNIST, checksum_remarks, md5_of
from models.paths import is_file, reading
from models.simclr_views import GREY
from models.tell import Tell

UNSIGNED_BYTES = 8
SPLITS = {"train": "train", "test": "t10k"}
PARTS = {"images": 3, "labels": 1}  # how many dimensions each has
PUBLISHED_SHAPE = (60_000, 28, 28)  # of the training images; other sets are not compared


def read_idx(path: Path, *, wants_test: bool, verifies: bool, tell: Tell) -> Parts:
    """Read a data set of four IDX files (models.datasets.parts.Reader)."""
    del tell  # it takes about a second
    splits = ["train", "test"] if wants_test else ["train"]
    files = {(split, part): _find(path, split, part) for split in splits for part in PARTS}
    contents = {key: _unpacked(file) for key, file in files.items()}
    train, *rest = (
        _split(*((contents[split, part], files[split, part]) for part in PARTS)) for split in splits
    )
    test = rest[0] if rest else None
    remarks: list[str] = []
    if verifies and tuple(train.images[:, 0].shape) == PUBLISHED_SHAPE:
        md5 = {_name(*key): md5_of(content) for key, content in contents.items()}
        remarks = checksum_remarks(md5, [MNIST, FASHION_MNIST], path)
    highest = [int(split.labels.max()) for split in (train, test) if split is not None]
    return Parts(train=train, test=test, num_classes=max(highest) + 1, views=GREY, remarks=remarks)


def _name(split: str, part: str, mark: str = "-") -> str:
    return f"{SPLITS[split]}-{part}{mark}idx{PARTS[part]}-ubyte"


def _find(folder: Path, split: str, part: str) -> Path:
    for name in (_name(split, part), _name(split, part, mark=".")):
        for file in (folder / name, folder / f"{name}.gz"):
            if is_file(file):
                return file
    raise ValueError(
        f"there is no {_name(split, part)}, gzipped or not, in {folder}; for Fashion-MNIST"
        f" {FASHION_MNIST.remedy(folder)}; MNIST's have the same names, at {MNIST.url}"
    )


def _split(images: tuple[bytearray, Path], labels: tuple[bytearray, Path]) -> Split:
    """A split from the contents of its two files."""
    images_NHW = _values(*images, PARTS["images"])
    labels_N = _values(*labels, PARTS["labels"])
    if len(images_NHW) != len(labels_N):
        raise ValueError(
            f"{images[1]} holds {len(images_NHW):,} images, {labels[1]} {len(labels_N):,} labels;"
            " take both from the same data set"
        )
    if not images_NHW.size:
        raise ValueError(f"{images[1]} holds no images; download it anew")
    return Split(
        images=torch.from_numpy(images_NHW)[:, None],
        labels=torch.from_numpy(labels_N.astype(np.int64)),
    )


def _values(content: bytearray, file: Path, dimensions: int) -> np.ndarray:
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, UNSIGNED_BYTES, dimensions)):
        begins = f"begins with {content[:4].hex(' ')}" if content else "is empty"
        raise ValueError(
            f"{file} {begins}, an IDX file of bytes in {dimensions}"
            f" dimension{'s' if dimensions > 1 else ''} with 00 00 08 0{dimensions}; give such a"
            " file"
        )
    header = np.frombuffer(content[4:start].ljust(start - 4, b"\0"), dtype=">u4")
    shape = tuple(int(size) for size in header)
    if len(content) != start + math.prod(shape):
        wrong = "cut short" if len(content) < start + math.prod(shape) else "too long"
        raise ValueError(
            f"{file} has {len(content):,} bytes{' unpacked' if file.suffix == '.gz' else ''}, and"
            f" its header asks for {start + math.prod(shape):,}: it is {wrong}; download it anew"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _unpacked(file: Path) -> bytearray:
    """All bytes; to be written to, since torch warns of those that can't be."""
    if file.suffix != ".gz":
        with reading(file):
            return bytearray(file.read_bytes())
    with reading(file):
        try:
            with gzip.open(file) as opened:
                return bytearray(opened.read())
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{file} is cut short or damaged ({error}); download it anew"
            ) from error
