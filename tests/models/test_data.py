"""Data sets by name, and the images of each step."""

import numpy as np
import pytest
import torch

from models.data import LAYOUTS, ImageData, batch_indices, load_data, steps_per_epoch
from models.views import DIGITS, GENERIC

MODULE = """
from typing import NamedTuple
import torch
from models.data import ImageData

IMAGES, LABELS = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, -1, 0, 1])

def parts():
    return IMAGES, LABELS, IMAGES[:2], LABELS[:2]

def whole():
    return ImageData(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES,
                     test_labels=LABELS, num_classes=5)

def nothing():
    return None

class Four(NamedTuple):
    a: object
    b: object
    c: object
    d: object

def named():
    return Four(*parts())

def three():
    return parts()[:3]

def needs_path(path):
    return parts()

def direct():
    return ImageData(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES,
                     test_labels=["cat"] * 6, num_classes=3)

def swapped():
    return IMAGES, IMAGES[:2], LABELS, LABELS[:2]
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_digits_are_held_out_once_over_the_splits():
    held_out = []
    for split in range(5):
        data = load_data("digits", seed=0, split=split)
        assert len(data.train_images) + len(data.test_images) == 1797
        assert data.test_labels.bincount().min() >= 34  # stratified
        held_out += [image.numpy().tobytes() for image in data.test_images]
    assert len(held_out) == 1797
    train = {image.numpy().tobytes() for image in load_data("digits", seed=0).train_images}
    assert len(train & set(held_out[:360])) == 0


def test_digits_are_16x16_in_range_and_no_seed_moves_them():
    data = load_data("digits", seed=0)
    assert data.image_shape == (1, 16, 16)
    assert (data.num_classes, data.views) == (10, DIGITS)
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)
    assert data.train_images.dtype == torch.float32
    assert torch.equal(load_data("digits", seed=1).test_images, data.test_images)


def test_synthetic_images_follow_the_seed():
    data = load_data("synthetic:3x8x6x40", seed=0)
    assert data.image_shape == (3, 8, 6)
    assert (len(data.train_images), len(data.test_images)) == (40, 10)
    assert 0 <= data.train_images.min() < data.train_images.max() <= 1
    assert torch.equal(load_data("synthetic:3x8x6x40", seed=0).train_images, data.train_images)
    other = load_data("synthetic:3x8x6x40", seed=1).train_images
    assert not torch.equal(other, data.train_images)
    assert len(load_data("synthetic:1x2x2", seed=0).train_images) == 1024


def test_synthetic_classes_can_be_told_apart():
    data = load_data("synthetic:1x8x8x100", seed=0)
    distances = torch.cdist(data.test_images.flatten(1), data.train_images.flatten(1))
    nearest = data.train_labels[distances.argmin(dim=1)]
    assert (nearest == data.test_labels).float().mean() > 0.9


@pytest.mark.usefixtures("own_module")
def test_users_function_gives_tensors_or_all():
    data = load_data("own_data:parts", seed=0)
    assert (data.num_classes, data.views) == (3, GENERIC)
    assert load_data("own_data:whole", seed=0).num_classes == 5
    assert load_data("own_data:named", seed=0).num_classes == 3


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_data:nothing", "returned a NoneType"),
        ("own_data:three", r"returned a tuple of 3; return ImageData, or a tuple \(train_images"),
        ("own_data:swapped", "data 'own_data:swapped': train labels of shape"),
        ("own_data:direct", "data 'own_data:direct': test labels are strings"),
        ("own_data:needs_path", "is called with no argument: missing a required argument: 'path'"),
        ("own_data:hole", "did you mean 'whole'"),
        ("digit", "did you mean 'digits'"),
        ("cifar:/data", "no data layout named 'cifar' .did you mean 'cifar10'.*or write package"),
        ("synthetic", "such as synthetic:3x32x32x1024"),
        ("synthetic:3x32", "such as synthetic:3x32x32x1024"),
        ("synthetic:3x0x32", "at least 1"),
    ],
)
def test_wrong_name_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_data(name, seed=0)


@pytest.mark.parametrize("num_classes", [4.0, "4", True, -1, None])
def test_number_of_classes_that_is_none_is_refused(num_classes):
    """It ended in a worker's probe."""
    images, labels = torch.zeros(4, 1, 2, 2), torch.arange(4)
    parts = {"train_images": images, "train_labels": labels}
    parts |= {"test_images": images, "test_labels": labels}
    with pytest.raises(ValueError, match=f"num_classes {num_classes!r}; give a whole number, 0 if"):
        ImageData(**parts, num_classes=num_classes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_path_that_can_not_be_looked_at_is_refused(layout):
    """A folder that may not be entered, or one in the home of nobody, was a traceback."""
    with pytest.raises(ValueError, match=rf"data '{layout}:/x+': /x+.* can't be read: file name"):
        load_data(f"{layout}:/{'x' * 300}", seed=0)
    with pytest.raises(ValueError, match=rf"data '{layout}:~nosuch/x': .* not known here; give"):
        load_data(f"{layout}:~nosuch/x", seed=0)


def test_splits_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="0 to 4"):
        load_data("digits", seed=0, split=5)
    with pytest.raises(ValueError, match="only one"):
        load_data("synthetic:1x2x2", seed=0, split=1)


def image_data(**changes):
    images, labels = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, -1])
    parts = {
        "train_images": images,
        "train_labels": labels,
        "test_images": images,
        "test_labels": labels,
        "num_classes": 2,
    }
    return ImageData(**parts | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.rand(3, 4, 4)}, r"\(N, C, H, W\) float32"),
        ({"train_images": []}, "there are no training images"),
        ({"test_labels": torch.tensor([0, 1])}, "one int64 label an image"),
        ({"test_labels": torch.tensor([0, 1, 2])}, "number the classes from 0"),
        ({"test_labels": torch.tensor([0, 1, -2])}, "number the classes from 0"),
        ({"test_images": torch.rand(3, 1, 4, 5)}, "give both the same"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(changes, message):
    assert image_data().image_shape == (1, 4, 4)
    with pytest.raises(ValueError, match=message):
        image_data(**changes)


def test_epoch_shows_images_once_and_drops_the_partial_batch():
    assert steps_per_epoch(10, 3) == 3
    first = np.concatenate([batch_indices(10, 3, step, seed=0) for step in range(3)])
    second = np.concatenate([batch_indices(10, 3, step, seed=0) for step in range(3, 6)])
    assert len(set(first)) == len(set(second)) == 9
    assert not np.array_equal(first, second)


def test_batch_does_not_depend_on_the_ones_before_it():
    late = batch_indices(50, 5, 123, seed=0)
    late_again = batch_indices(50, 5, 123, seed=0)
    late_again[:] = 0  # the caller owns what it got
    batch_indices(50, 5, 7, seed=1)
    assert np.array_equal(batch_indices(50, 5, 123, seed=0), late)
    assert not np.array_equal(batch_indices(50, 5, 123, seed=1), late)


@pytest.mark.parametrize("batch_size", [0, 1, 11])
def test_batch_that_the_data_cannot_fill_is_refused(batch_size):
    with pytest.raises(ValueError, match="choose from 2 to 10"):
        batch_indices(10, batch_size, 0, seed=0)


def test_data_of_one_image_is_refused():
    """A user who tried a data set of one image was told to choose from 1 to 0, then to 1."""
    with pytest.raises(ValueError, match="1 training image; at least 2 are needed, since a contr"):
        steps_per_epoch(1, 64)


# What is odd, but can be trained on ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({}, []),
        ({"train_images": torch.randn(3, 1, 4, 4)}, []),  # standardised
        ({"train_images": 255 * torch.ones(3, 1, 4, 4)}, ["values from 255 to 255", "uint8"]),
        (
            {"test_images": torch.empty(0), "test_labels": []},
            ["2 classes among the train labels, 0 labelled test images", "won't be evaluated"],
        ),
        ({"train_labels": -torch.ones(3)[:3].long()}, ["0 classes among the train labels"]),
        (
            {"train_images": torch.rand(3, 8, 6, 3), "test_images": torch.rand(3, 8, 6, 3)},
            ["8 channels of 6x3", "images.transpose(0, 3, 1, 2)"],
        ),
        ({"train_images": torch.rand(3, 3, 6, 3), "test_images": torch.rand(3, 3, 6, 3)}, []),
        ({"train_images": torch.rand(3, 64, 1, 1), "test_images": torch.rand(3, 64, 1, 1)}, []),
    ],
)
def test_data_of_odd_values_or_axes_is_pointed_out(changes, fragments):
    """Images of 0 to 255, and channels-last ones, trained without a warning and to no avail."""
    remarks = image_data(**changes).remarks
    assert len(remarks) == bool(fragments)
    assert [part for part in fragments if part not in remarks[0]] == []


def test_test_split_may_be_empty():
    data = image_data(test_images=[], test_labels=[])
    assert (data.test_images.shape, data.test_labels.dtype) == ((0, 1, 4, 4), torch.int64)


# Bytes, views, remarks on files ------------------------------------------------------------------


def test_uint8_images_stay_bytes_and_have_no_range_to_remark():
    images = torch.full((3, 1, 4, 4), 255, dtype=torch.uint8)
    data = image_data(train_images=images, test_images=images)
    assert data.train_images.data_ptr() == images.data_ptr()
    assert data.remarks == []


def test_views_may_be_any_callable_and_nothing_else():
    def draw(images, *, seed, step):
        return torch.cat([images, images])

    assert image_data(views=draw).views is draw
    with pytest.raises(ValueError, match=r"views are a dict; give models.views.ViewRanges, or a"):
        image_data(views={"flip": True})


def test_remarks_on_files_come_first():
    data = image_data(test_images=[], test_labels=[], source_remarks=("a file is odd",))
    assert data.remarks[0] == "a file is odd"
    assert len(data.remarks) == 2
