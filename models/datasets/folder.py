"""Images in a folder a class: train/CLASS/*, and test/CLASS/* or val/CLASS/*.

Owns which files are images of which class, and how one is decoded to its place in the set. Needs
pillow, which decodes without the GIL, so threads decode.

All images have one size: their own, or that of --image-size, to which the short side is scaled and
the long one cut at both ends. They are in colour unless all are grey.

Shapes: N images, C channels, H height, W width.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from models.datasets import cache
from models.datasets.parts import Parts, Split
from models.datasets.progress import Progress
from models.datasets.raw_files import fingerprint
from models.paths import is_folder, reading
from models.simclr_views import LARGE
from models.tell import Tell
from models.validation import stratified_order

SUFFIXES = frozenset(
    ".bmp .gif .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
TEST = ("test", "val")  # the first that is there is held out
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits a channel
PER_TASK = 64  # images that a thread decodes before it tells how far it is
MOST_THREADS = 16
DRAFT = 2  # a JPEG is decoded at no less than so many times the size that is needed

# What pillow raises over a file that is none of its formats, cut short or damaged
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error),
    Image.DecompressionBombError,
)

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The image files of a split with their classes, and how many other files lie there."""

    files: Sequence[Path]
    classes: Sequence[str]
    num_others: int


def read_folder(
    path: Path, *, image_size: int | None, wants_test: bool, verifies: bool, tell: Tell
) -> Parts:
    """Read a folder of images (models.datasets.parts.Reader).

    They are decoded once, into the cache: a worker that is restarted maps what the first one
    decoded. Both splits are in one file, the training images in stratified order; those to train on
    alone are in one of their own.
    """
    del verifies  # there is nothing to compare with
    train = _in_stratified_order(_list_split(path, "train"))
    held_out = [name for name in TEST if wants_test and is_folder(path / name)]
    test = (
        _list_split(path, held_out[0]) if held_out else Listing(files=[], classes=[], num_others=0)
    )
    names = sorted(set(train.classes))
    _check_classes(names, test, path)
    files = [*train.files, *test.files]
    place = f"{path}\0{image_size}" + ("" if wants_test else "\0train alone")
    images = _decoded(path, place, files, image_size, tell)
    number = {name: index for index, name in enumerate(names)}
    splits = [
        Split(images=part, labels=torch.tensor([number[name] for name in listing.classes]).long())
        for part, listing in (
            (images[: len(train.files)], train),
            (images[len(train.files) :], test),
        )
    ]
    return Parts(
        train=splits[0],
        test=splits[1] if test.files else None,
        num_classes=len(names),
        views=LARGE,
        remarks=list(_remarks(path, train.num_others + test.num_others, held_out)),
        is_stratified=True,
    )


# Which files --------------------------------------------------------------------------------------


def _list_split(root: Path, split: str) -> Listing:
    """A split's images, by class and then by path, below the class's folder at any depth."""
    folder = root / split
    if not is_folder(folder):
        raise ValueError(
            f"there is no folder {folder}; put images into {root}/train/CLASS/ and"
            f" {root}/test/CLASS/ (or val), a folder for each class"
        )
    files, classes, num_others = [], [], 0
    with reading(folder):
        for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()):
            if name.startswith("."):
                continue
            for file in _files_below(folder / name):
                if file.suffix.lower() in SUFFIXES:
                    files.append(file)
                    classes.append(name)
                else:
                    num_others += 1
    if not files:
        raise ValueError(
            f"there are no images in {folder}/CLASS/ ({' '.join(sorted(SUFFIXES))}); put each"
            " class's into a folder of its own"
        )
    return Listing(files=files, classes=classes, num_others=num_others)


def _files_below(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    real = folder.resolve()
    above = {str(folder.parent): {_key(parent) for parent in real.parents}}  # what each lies in
    for place, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        own = above[place] = above[os.path.dirname(place)] | {_key(Path(place))}
        folders[:] = sorted(name for name in folders if _key(Path(place, name)) not in own)
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _key(folder: Path) -> tuple[int, int]:
    """What a folder is, by whatever link it is reached."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def _in_stratified_order(listing: Listing) -> Listing:
    _, labels = np.unique(listing.classes, return_inverse=True)
    order = stratified_order(labels)
    return Listing(
        files=[listing.files[i] for i in order],
        classes=[listing.classes[i] for i in order],
        num_others=listing.num_others,
    )


def _check_classes(names: Sequence[str], test: Listing, path: Path) -> None:
    unknown = sorted(set(test.classes) - set(names))
    if unknown:
        raise ValueError(
            f"{len(unknown)} of the test images' classes ({', '.join(unknown[:3])}"
            f"{', ...' if len(unknown) > 3 else ''}) are not in {path}/train; give both splits the"
            " same classes"
        )


def _remarks(path: Path, num_others: int, held_out: Sequence[str]) -> Iterator[str]:
    if num_others:
        yield (
            f"left out in {path}: {num_others} file{'s' if num_others > 1 else ''} whose suffix is"
            f" not an image's ({' '.join(sorted(SUFFIXES))})"
        )
    if len(held_out) > 1:
        yield f"{path}/{held_out[1]} is left out, since there is {path}/{held_out[0]} to test on"


# Decoding -----------------------------------------------------------------------------------------


def _decoded(
    path: Path, place: str, files: Sequence[Path], image_size: int | None, tell: Tell
) -> torch.Tensor:
    """All images (N, C, H, W) uint8, mapped from the cache, or in memory if it can't take them."""

    def prepare(progress: Progress) -> tuple[cache.Shape, cache.Fill]:
        shape = len(files), *_one_shape(files, image_size, progress)
        return shape, lambda images, progress: _fill(images, files, progress)

    try:
        return cache.mapped(
            prepare,
            place=place,
            content="\0".join(fingerprint(file, path) for file in files),
            what=str(path),
            tell=tell,
        )
    except cache.NoRoom as error:
        images = cache.in_memory(prepare, what=str(path), tell=tell)
        if images is None:
            raise cache.too_large(error, "give a smaller --image-size") from error
        return images


def _one_shape(
    files: Sequence[Path], image_size: int | None, progress: Progress
) -> tuple[int, int, int]:
    """The shape (C, H, W) that all images are decoded to."""
    progress.begin("looking at", len(files))
    looked_at = list(_by_threads(_look_at, files, progress))
    num_channels = 1 if all(is_grey for _, is_grey in looked_at) else 3
    if image_size is not None:
        return num_channels, image_size, image_size
    sizes = {size for size, _ in looked_at}
    if len(sizes) > 1:
        (least_x, least_y), (most_x, most_y) = min(sizes), max(sizes)
        side = min(min(size) for size in sizes)
        raise ValueError(
            f"images are of {len(sizes)} sizes, from {least_x}x{least_y} to {most_x}x{most_y}; give"
            f" the side to which all are scaled, such as --image-size {side}"
        )
    ((width, height),) = sizes
    return num_channels, height, width


def _look_at(file: Path) -> tuple[tuple[int, int], bool]:
    """An image's size (W, H) and whether it is grey, from its header."""
    with _opened(file) as image:
        return image.size, image.mode in GREY_MODES


def _fill(images_NCHW: np.ndarray, files: Sequence[Path], progress: Progress) -> None:
    """Decode each file to its row."""

    def decode(row: int) -> None:
        images_NCHW[row] = _decode(files[row], images_NCHW.shape[1:])

    for _ in _by_threads(decode, range(len(files)), progress):
        pass


def _decode(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """One image (C, H, W)."""
    num_channels, height, width = shape
    with _opened(file) as image:
        image.draft(None, (DRAFT * width, DRAFT * height))
        whole = image.convert("L" if num_channels == 1 else "RGB")
    if whole.size != (width, height):
        side_x, side_y = whole.size
        margin_x, margin_y = (max(0, side - min(whole.size)) / 2 for side in whole.size)
        box = (margin_x, margin_y, side_x - margin_x, side_y - margin_y)
        whole = whole.resize((width, height), Image.Resampling.BICUBIC, box=box)
    pixels_HWC = np.asarray(whole).reshape(height, width, num_channels)
    return pixels_HWC.transpose(2, 0, 1)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """A file as an image; whatever pillow raises over it becomes a ValueError that names it."""
    try:
        with Image.open(file) as image:
            deep = image.mode in DEEP_MODES
            if not deep:
                yield image
    except DAMAGED as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"{file} can't be decoded ({reason}); replace it, or take it out of the folder"
        ) from error
    if deep:
        raise ValueError(f"{file} has more than 8 bits a channel; convert it to 8")


def _by_threads(function: Callable[[S], T], items: Sequence[S], progress: Progress) -> Iterator[T]:
    """What a function returns for each item, in order; what it raises ends the others too."""
    tasks = [items[begin : begin + PER_TASK] for begin in range(0, len(items), PER_TASK)]
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        for results in pool.map(lambda task: [function(item) for item in task], tasks):
            progress.advance(len(results))
            yield from results
