"""A run's data are those of its config."""

from dataclasses import replace

import pytest
import torch

from launch.config import RunConfig
from launch.run_data import digest_of, load_run_data, sizes_of
from models.simclr_views import SMALL
from models.views import DIGITS

from ..models.datasets.layouts import write_cifar10


def test_config_chooses_data_views_and_what_is_held_out(tmp_path):
    images, _ = write_cifar10(tmp_path, per_file=20)
    name = f"cifar10:{tmp_path}"
    data = load_run_data(RunConfig(data=name))
    assert data.views is SMALL
    assert (len(data.train_images), len(data.test_images)) == (100, 20)
    assert data.remarks == []
    assert len(load_run_data(RunConfig(data=name), verifies=True).remarks) == 1
    held_out = load_run_data(RunConfig(data=name, validation=0.1)).test_images
    trained = {image.tobytes() for image in images[:100]}
    assert len(held_out) == 10
    assert {image.numpy().tobytes() for image in held_out} < trained


def test_views_of_another_kind_are_taken_if_asked_for():
    assert load_run_data(RunConfig()).views is DIGITS
    data = load_run_data(RunConfig(views="simclr"))
    assert data.views is SMALL
    assert torch.equal(data.train_images, load_run_data(RunConfig()).train_images)


def test_image_size_belongs_to_folders():
    with pytest.raises(ValueError, match="image-size 8 is for folder:PATH"):
        load_run_data(RunConfig(image_size=8))


def test_data_are_known_again_by_sizes_and_digest():
    data = load_run_data(RunConfig(data="synthetic:1x8x8x600"))
    again = load_run_data(RunConfig(data="synthetic:1x8x8x600"))
    assert sizes_of(data) == "600 train and 150 test images of 1x8x8, 10 classes"
    assert digest_of(data) == digest_of(again)
    labels = data.test_labels.clone()
    labels[7] = 1
    for change in ({"train_images": 1 - data.train_images}, {"test_labels": labels}):
        assert digest_of(replace(data, **change)) != digest_of(data)
