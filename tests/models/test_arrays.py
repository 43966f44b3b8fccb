"""A user's arrays: which are taken, as what, and what is said of the others."""

import warnings

import numpy as np
import pytest
import torch

from models import arrays
from models.arrays import to_images, to_labels, to_unit_range, value_range

GREY = np.linspace(0, 1, 32).reshape(2, 1, 4, 4)


@pytest.mark.parametrize(
    "given",
    [
        GREY,
        GREY.astype(np.float32),
        torch.from_numpy(GREY),
        torch.from_numpy(GREY).requires_grad_(),
        GREY[::-1].copy()[::-1],  # flipped
        GREY.astype(">f4"),
        GREY.tolist(),
        list(GREY),
        list(torch.from_numpy(GREY)),
    ],
)
def test_images_become_float32_tensors(given):
    """numpy's float64, which is what its users have, was refused."""
    images = to_images(given, "train images")
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert torch.equal(images, torch.from_numpy(GREY).float())


def test_float32_is_taken_as_it_lies_and_half_exactly():
    whole = torch.rand(2, 1, 4, 4)
    assert to_images(whole, "train images") is not None
    assert to_images(whole, "train images").data_ptr() == whole.data_ptr()
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(to_images(whole.to(dtype), "x"), whole.to(dtype).float())


def test_uint8_stays_where_it_lies_and_a_batch_of_it_is_scaled():
    """A large set was copied as floats before the first step, at four times its size."""
    given = np.array([0, 51, 255], dtype=np.uint8).reshape(3, 1, 1, 1)
    images = to_images(given, "train images")
    assert images.dtype == torch.uint8
    assert images.data_ptr() == given.ctypes.data
    assert to_unit_range(images).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert given.max() == 255


def test_batches_have_the_bits_that_scaling_the_whole_set_gives():
    images = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 4, 4)
    whole = images.float() / 255
    for rows in ([3], [15, 0, 7]):
        assert torch.equal(to_unit_range(images[rows]), whole[rows])
    floats = torch.rand(2, 1, 4, 4)
    assert to_unit_range(floats) is floats


def test_array_that_cannot_be_written_is_read():
    """Such as numpy.load(..., mmap_mode="r") gives; torch warns of it."""
    given = GREY.astype(np.float32)
    given.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_images(given, "train images").shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", ">i4", "uint32", "int64", "bool"]
)
def test_labels_of_any_integer_type_become_int64(dtype):
    """numpy's int32, and torch's uint8, were refused."""
    labels = to_labels(np.array([0, 1, 1]).astype(dtype), "train labels")
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 1]
    assert to_labels([], "test labels").dtype == torch.int64


@pytest.mark.parametrize(
    ("given", "found", "remedy"),
    [
        (None, "None", "or uint8"),
        (np.array([None, 1]), "an array of object", "or uint8"),
        ([np.zeros((1, 4, 4)), np.zeros((1, 4, 5))], "a list of unequal shapes", "or uint8"),
        ([torch.zeros(1, 4, 4), torch.zeros(1, 4, 5)], "a list of unequal shapes", "or uint8"),
        (object(), "object", "or uint8"),
        (np.zeros((2, 4, 4)), r"of shape \(2, 4, 4\), float64", r"images\[:, None\]"),
        (np.zeros((2, 1, 4, 4), int), r"of shape \(2, 1, 4, 4\), int64", "or uint8"),
        (np.zeros((2, 1, 4, 4), complex), "an array of complex128", "or uint8"),
        ("a string", "strings", "or uint8"),
    ],
)
def test_array_that_is_no_image_is_refused(given, found, remedy):
    with pytest.raises(ValueError, match=rf"train images (are )?{found}.*{remedy}"):
        to_images(given, "train images")


@pytest.mark.parametrize(
    ("given", "found", "remedy"),
    [
        (None, "None", "-1 if unknown"),
        (["cat", "dog"], "strings", r"numpy\.unique\(labels, return_inverse=True\)"),
        ([0.0, 1.0], r"of shape \(2,\), float64", "classes are whole numbers"),
        (np.eye(3), r"of shape \(3, 3\), float64", r"labels\.argmax\(1\), if they are one-hot"),
        ([[0], [1]], r"of shape \(2, 1\), int64", r"labels\.reshape\(-1\)"),
        ([[0, 1], [1]], "a list of unequal shapes", "one int64 label an image"),
    ],
)
def test_array_that_is_no_label_is_refused(given, found, remedy):
    with pytest.raises(ValueError, match=rf"test labels (are )?{found}.*{remedy}"):
        to_labels(given, "test labels")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_found(value, monkeypatch):
    """One NaN in a held-out image ended a run with "the run has diverged"."""
    monkeypatch.setattr(arrays, "SLICE_VALUES", 32)  # two images
    images = np.zeros((7, 1, 4, 4))
    images[3, 0, 1, 1] = images[6, 0, 0, 0] = images[6, 0, 0, 1] = value
    with pytest.raises(ValueError, match=r"2 of 7 test images .* the first at index 3;"):
        to_images(images, "test images")
    assert to_images(images[:3], "test images").shape == (3, 1, 4, 4)


def test_range_is_of_all_slices(monkeypatch):
    monkeypatch.setattr(arrays, "SLICE_VALUES", 1)
    images = torch.zeros(5, 1, 2, 2)
    images[1, 0, 1, 0], images[4, 0, 0, 0] = 7, -3
    assert value_range(images) == (-3, 7)
