"""The data of a run, as its config names them.

Owns which keys of a config the data depend on, and by what a run knows its data again.
"""

import math
import os
from dataclasses import replace

from torch import Tensor

from launch.config import RunConfig
from models.data import LAYOUTS, ImageData, load_data
from models.view_names import choose_views
from runtime import digest
from runtime.program import Tell, unheard

MOST_DIGESTED = 256  # images of each part that are looked at, spread evenly over all


def load_run_data(config: RunConfig, *, verifies: bool = False, tell: Tell = unheard) -> ImageData:
    """Load a run's data, with the views that it asks for. Raises ValueError.

    `verifies` and `tell` are those of models.data.load_data.
    """
    data = load_data(
        config.data,
        seed=config.seed,
        split=config.split,
        validation=config.validation,
        train_images=config.train_images,
        image_size=config.image_size,
        verifies=verifies,
        tell=tell,
    )
    views = choose_views(config.views, data.views, data.image_shape)
    return data if views is data.views else replace(data, views=views)


def same_data(name: str, other: str) -> bool:
    """Whether two names are of the same data, by whatever path."""
    return _place(name) == _place(other)


def _place(name: str) -> tuple[str, ...]:
    layout, _, path = name.partition(":")
    if layout in LAYOUTS:
        return layout, os.path.realpath(os.path.expanduser(path))
    file, _, attribute = name.rpartition(":")
    if file.endswith(".py"):
        return os.path.realpath(os.path.expanduser(file)), attribute
    return (name,)


def sizes_of(data: ImageData) -> str:
    """How much data there are, in words."""
    shape = "x".join(map(str, data.image_shape))
    return (
        f"{len(data.train_images)} train and {len(data.test_images)} test images of {shape},"
        f" {data.num_classes} classes"
    )


def digest_of(data: ImageData) -> str:
    """A digest of all labels and some of the images, which costs next to nothing."""
    tensors = {
        "train_images": _some(data.train_images),
        "train_labels": data.train_labels,
        "test_images": _some(data.test_images),
        "test_labels": data.test_labels,
    }
    return digest.of_tensors(tensors)[:16]


def _some(images: Tensor) -> Tensor:
    return images[:: max(1, math.ceil(len(images) / MOST_DIGESTED))]
