"""Images with labels, by name, and the order in which training sees them.

Owns the data sets that need no download, how those on the disk and a user's own join them, and
which images make up the batch of a step. Knows nothing of layouts, views' drawing or blocks.

Shapes: N images, C channels, H height, W width. A label of -1 means unlabelled.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import randomness
from models.arrays import LABELS, to_images, to_labels, value_range
from models.datasets.cifar import read_cifar10, read_cifar100
from models.datasets.folder import read_folder
from models.datasets.idx import read_idx
from models.datasets.parts import Parts, Reader
from models.datasets.stl10 import read_stl10
from models.paths import absolute
from models.plugins import call_function, is_dotted, unknown_name
from models.tell import Tell, unheard
from models.validation import draw_few, split_off
from models.views import DIGITS, GENERIC, Views

NUM_SPLITS = 5
SYNTHETIC_CLASSES = 10
LEAST_BATCH = 2
FARTHEST_VALUE = 10  # of standardised images; those of 0 to 16 or 255 have not been scaled
FEW_CHANNELS = (1, 3, 4)
READERS: Mapping[str, Reader] = {  # of what lies at a path, by the layout's name before the colon
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "stl10": read_stl10,
    "idx": read_idx,
}
LAYOUTS = (*READERS, "folder")


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Images (N, C, H, W) and labels (N,) int64, for training and held out.

    Images are float32 in [0, 1], or uint8, which a batch of them is scaled from where it is used
    (models.arrays.to_unit_range). Takes arrays and tensors of other types as models.arrays does;
    raises ValueError for what can't be trained on. There may be no held-out images; no array is
    written to. `source_remarks`: what is odd about the files that the images come from.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    views: Views = GENERIC
    source_remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.views):
            raise ValueError(
                f"views are a {type(self.views).__name__}; give models.views.ViewRanges, or a"
                " function that is called as views(images, seed=..., step=...)"
            )
        num: object = self.num_classes
        if not isinstance(num, Integral) or isinstance(num, bool) or int(num) < 0:
            raise ValueError(f"num_classes {num!r}; give a whole number, 0 if nothing is labelled")
        for part in ("train", "test"):
            self._take(part)
        if not self.test_images.numel():
            none_NCHW = self.train_images.new_empty(0, *self.image_shape)
            object.__setattr__(self, "test_images", none_NCHW)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"train images of shape {self.image_shape}, test images of shape "
                f"{tuple(self.test_images.shape[1:])}; give both the same"
            )

    def _take(self, part: str) -> None:
        """Put tensors in the place of what was given for a split, and check them."""
        images = to_images(getattr(self, f"{part}_images"), f"{part} images")
        if part == "train" and not images.numel():
            shape = tuple(images.shape)
            raise ValueError(f"there are no training images (shape {shape}); give (N, C, H, W)")
        labels = to_labels(getattr(self, f"{part}_labels"), f"{part} labels")
        if len(labels) != len(images):
            raise ValueError(
                f"{part} labels of shape {tuple(labels.shape)} for {len(images)} images; {LABELS}"
            )
        if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"{part} labels from {int(labels.min())} to {int(labels.max())} for "
                f"{self.num_classes} classes; number the classes from 0, -1 if unknown"
            )
        object.__setattr__(self, f"{part}_images", images)  # frozen for everyone else
        object.__setattr__(self, f"{part}_labels", labels)

    @property
    def remarks(self) -> list[str]:
        """What is odd about the data though it can be trained on, in short sentences."""
        found = (self._range_remark(), self._axes_remark(), self._labels_remark())
        return [*self.source_remarks, *(remark for remark in found if remark is not None)]

    def _range_remark(self) -> str | None:
        if self.train_images.dtype == torch.uint8:
            return None
        low, high = value_range(self.train_images)
        if max(-low, high) <= FARTHEST_VALUE:
            return None
        return (
            f"train images hold values from {low:g} to {high:g}, and their views are drawn for"
            " [0, 1]: scale them, or give uint8, which is scaled"
        )

    def _axes_remark(self) -> str | None:
        num_channels, height, width = self.image_shape
        if width not in FEW_CHANNELS or num_channels in FEW_CHANNELS or height <= width:
            return None
        return (
            f"images are taken as {num_channels} channels of {height}x{width}; if {width} is their"
            " number of channels, give images.transpose(0, 3, 1, 2), a tensor's permute"
        )

    def _labels_remark(self) -> str | None:
        num_classes = len(self.train_labels[self.train_labels >= 0].unique())
        num_held_out = int((self.test_labels >= 0).sum())
        if num_classes >= 2 and num_held_out:
            return None
        return (
            f"{num_classes} classes among the train labels, {num_held_out} labelled test images:"
            " the run won't be evaluated at its end, for which it takes at least 2 and 1"
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """One image's shape, (C, H, W)."""
        _, num_channels, height, width = self.train_images.shape
        return num_channels, height, width


def load_data(
    name: str,
    *,
    seed: int,
    split: int = 0,
    validation: float = 0.0,
    train_images: int | None = None,
    image_size: int | None = None,
    verifies: bool = False,
    tell: Tell = unheard,
) -> ImageData:
    """Load the data set of a name.

    "digits": scikit-learn's 1,797 bundled digits at 16x16; over splits 0 to 4 each is held out
    once. "synthetic:CxHxW" or "synthetic:CxHxWxN": N (1024) training images of 10 classes drawn
    from the seed. One of LAYOUTS and a path, "cifar10:PATH": what lies there in that layout; if
    `verifies`, its checksums are compared with the published ones, for the remarks; a folder's
    images are scaled to `image_size`.
    package.module:function: called with no argument, returns ImageData or a tuple (train_images,
    train_labels, test_images, test_labels). Raises ValueError for anything else.

    `validation`: this share of the training images takes the place of the test images, which are
    then not in what is returned. `train_images`: so many of the labelled ones that are left are
    trained on, a stratified draw. `tell` hears of what takes long.
    """
    data = _load(name, seed, split, validation, image_size, verifies, tell)
    if train_images is None:
        return data
    few = draw_few(data.train_labels, train_images)
    return replace(data, train_images=data.train_images[few], train_labels=data.train_labels[few])


def _load(
    name: str,
    seed: int,
    split: int,
    validation: float,
    image_size: int | None,
    verifies: bool,
    tell: Tell,
) -> ImageData:
    if not 0 <= split < NUM_SPLITS:
        raise ValueError(f"split {split}; choose one of 0 to {NUM_SPLITS - 1}")
    if split and name != "digits":
        raise ValueError(f"split {split} of data {name!r}, which has only one; leave split at 0")
    layout, attribute = name.partition(":")[0], name.rpartition(":")[2]
    if image_size is not None and layout != "folder":
        raise ValueError(
            f"image-size {image_size} is for folder:PATH, and data {name!r} have their own size;"
            " leave it out"
        )
    if layout in LAYOUTS:
        reader = READERS.get(layout) or partial(read_folder, image_size=image_size)
        return _at_path(name, reader, validation=validation, verifies=verifies, tell=tell)
    if name == "digits":
        data = _digits(split)
    elif layout == "synthetic":
        data = _synthetic(name, seed)
    elif is_dotted(name) and not all(part.isidentifier() for part in attribute.split(".")):
        raise unknown_name(layout, "data layout", LAYOUTS)  # a path, and no function's name
    elif is_dotted(name):
        data = _users(name)
    else:
        on_disk = [f"{layout}:PATH" for layout in LAYOUTS]
        raise unknown_name(name, "data", ("digits", "synthetic:CxHxW", *on_disk))
    return _held_out(data, validation) if validation else data


def _held_out(data: ImageData, share: float, *, is_stratified: bool = False) -> ImageData:
    """The same data with a share of the training images in the place of the test images."""
    left, held_out = split_off(data.train_labels, share, is_stratified=is_stratified)
    return replace(
        data,
        train_images=data.train_images[left],
        train_labels=data.train_labels[left],
        test_images=data.train_images[held_out],
        test_labels=data.train_labels[held_out],
    )


def _at_path(
    name: str, reader: Reader, *, validation: float, verifies: bool, tell: Tell
) -> ImageData:
    layout, _, path = name.partition(":")
    if not path:
        raise ValueError(f"data {name!r} has no path; write {layout}:PATH, such as {layout}:data")
    try:
        parts = reader(absolute(path), wants_test=not validation, verifies=verifies, tell=tell)
        data = _from_parts(parts)
        if not validation:
            return data
        return _held_out(data, validation, is_stratified=parts.is_stratified)
    except ValueError as error:
        raise ValueError(f"data {name!r}: {error}") from error


def _from_parts(parts: Parts) -> ImageData:
    test = parts.test
    none = torch.empty(0)
    return ImageData(
        train_images=parts.train.images,
        train_labels=parts.train.labels,
        test_images=none if test is None else test.images,
        test_labels=none if test is None else test.labels,
        num_classes=parts.num_classes,
        views=parts.views,
        source_remarks=tuple(parts.remarks),
    )


def steps_per_epoch(num_train: int, batch_size: int) -> int:
    """Return the number of full batches; the last partial one is dropped."""
    if num_train < LEAST_BATCH:
        raise ValueError(
            f"{num_train} training image; at least {LEAST_BATCH} are needed, since a contrastive"
            " loss tells an image's other view from other images'"
        )
    if not LEAST_BATCH <= batch_size <= num_train:
        raise ValueError(
            f"batch size {batch_size} for {num_train} training images; choose from {LEAST_BATCH} "
            f"to {num_train}"
        )
    return num_train // batch_size


def batch_indices(num_train: int, batch_size: int, step: int, *, seed: int) -> np.ndarray:
    """Return the indices (batch_size,) of a step's images; each epoch has its own order."""
    epoch, position = divmod(step, steps_per_epoch(num_train, batch_size))
    start = position * batch_size
    return _shuffled(num_train, seed, epoch)[start : start + batch_size].copy()


@lru_cache(maxsize=2)
def _shuffled(num_train: int, seed: int, epoch: int) -> np.ndarray:
    order: np.ndarray = randomness.generator(seed, "shuffle", step=epoch).permutation(num_train)
    return order


def _digits(split: int) -> ImageData:
    values = np.loadtxt(_digits_file(), delimiter=",", dtype=np.float32)
    small_N1HW = torch.from_numpy(values[:, :-1] / 16).reshape(-1, 1, 8, 8)
    images = functional.interpolate(small_N1HW, size=(16, 16), mode="bilinear")
    labels = torch.from_numpy(values[:, -1].astype(np.int64))
    fold = _stratified_folds(values[:, -1])
    train, test = np.flatnonzero(fold != split), np.flatnonzero(fold == split)
    return ImageData(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        num_classes=10,
        views=DIGITS,
    )


def _digits_file() -> Path:
    """Where scikit-learn keeps its digits; importing it to ask would cost a second per process."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None, "scikit-learn is a requirement of this package"
    assert found.submodule_search_locations is not None
    (root,) = found.submodule_search_locations
    return Path(root, "datasets", "data", "digits.csv.gz")


def _stratified_folds(labels: np.ndarray) -> np.ndarray:
    """Deal each class's images out to the folds in turn, in an order that no run's seed moves."""
    fold = np.empty(len(labels), dtype=np.int64)
    dealt = 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = randomness.generator(0, "folds", step=int(label)).permutation(members)
        fold[order] = (dealt + np.arange(len(order))) % NUM_SPLITS
        dealt += len(order)
    return fold


def _synthetic(name: str, seed: int) -> ImageData:
    match = re.fullmatch(r"synthetic:(\d+)x(\d+)x(\d+)(?:x(\d+))?", name)
    sizes = [int(group or 1024) for group in match.groups()] if match else [0]
    if min(sizes) < 1:
        raise ValueError(
            f"data {name!r} is not understood; write synthetic:CxHxW or synthetic:CxHxWxN with "
            "sizes of at least 1, such as synthetic:3x32x32x1024"
        )
    num_channels, height, width, num_train = sizes
    num_test = max(1, num_train // 4)
    rng = randomness.generator(seed, "synthetic")
    templates_KCHW = _blobs(rng, num_channels, height, width)
    labels_N = np.arange(num_train + num_test) % SYNTHETIC_CLASSES
    images_NCHW = rng.standard_normal((len(labels_N), num_channels, height, width), np.float32)
    images_NCHW *= 0.1
    images_NCHW += templates_KCHW[labels_N]
    images = torch.from_numpy(images_NCHW).clamp_(0, 1)
    labels = torch.from_numpy(labels_N)
    return ImageData(
        train_images=images[:num_train],
        train_labels=labels[:num_train],
        test_images=images[num_train:],
        test_labels=labels[num_train:],
        num_classes=SYNTHETIC_CLASSES,
    )


def _blobs(rng: np.random.Generator, num_channels: int, height: int, width: int) -> np.ndarray:
    """Draw each class's template (K, C, H, W): one Gaussian blob a channel."""
    shape = (SYNTHETIC_CLASSES, num_channels, 1, 1)
    centre_y, centre_x = rng.uniform(0.2, 0.8, (2, *shape))
    spread = rng.uniform(0.1, 0.25, shape)
    y_H1 = ((np.arange(height) + 0.5) / height)[:, None]
    x_W = (np.arange(width) + 0.5) / width
    squared = (y_H1 - centre_y) ** 2 + (x_W - centre_x) ** 2
    blobs_KCHW: np.ndarray = np.exp(-squared / (2 * spread**2)).astype(np.float32)
    return blobs_KCHW


def _users(name: str) -> ImageData:
    data = call_function(name, "data")
    if isinstance(data, ImageData):
        return data
    if not (isinstance(data, tuple) and len(data) == 4):
        kind = type(data).__name__ + (f" of {len(data)}" if isinstance(data, tuple) else "")
        raise ValueError(
            f"data {name!r} returned a {kind}; return ImageData, or a tuple (train_images, "
            "train_labels, test_images, test_labels)"
        )
    try:
        train_labels = to_labels(data[1], "train labels")
        test_labels = to_labels(data[3], "test labels")
        highest = [int(labels.max()) for labels in (train_labels, test_labels) if labels.numel()]
        return ImageData(
            train_images=data[0],
            train_labels=train_labels,
            test_images=data[2],
            test_labels=test_labels,
            num_classes=max(highest, default=-1) + 1,
        )
    except ValueError as error:
        raise ValueError(f"data {name!r}: {error}") from error
