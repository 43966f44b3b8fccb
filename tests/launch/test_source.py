"""Block 0's batches: a step's images, scaled and drawn, whatever was drawn before."""

import dataclasses

import pytest
import torch

from launch.config import RunConfig
from launch.source import make_source
from models.data import ImageData, batch_indices
from models.plugins import UsersError
from models.simclr_views import SMALL

CONFIG = RunConfig(batch_size=4, seed=3)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(20) % 3
    return ImageData(
        train_images=images,
        train_labels=labels,
        test_images=images[:5],
        test_labels=labels[:5],
        num_classes=3,
        views=SMALL,
    )


def test_batch_is_a_function_of_seed_and_step_alone(data):
    source = make_source(CONFIG, data, device="cpu")
    views, labels = source(7)
    assert views.shape == (8, 3, 8, 8)
    source(2)
    fresh = make_source(CONFIG, data, device="cpu")(7)
    again = source(7)
    for other in (fresh, again):
        assert torch.equal(other[0], views)
        assert torch.equal(other[1], labels)
    assert not torch.equal(make_source(CONFIG, data, device="cpu")(8)[0], views)


def test_bytes_give_the_bits_that_floats_give(data):
    floats = dataclasses.replace(data, train_images=data.train_images.float() / 255)
    for step in range(3):
        a, b = (make_source(CONFIG, one, device="cpu")(step) for one in (data, floats))
        assert torch.equal(a[0], b[0])


def test_views_are_of_the_steps_images_with_their_labels(data):
    plain = lambda images, *, seed, step: torch.cat([images, images])  # noqa: E731
    source = make_source(CONFIG, dataclasses.replace(data, views=plain), device="cpu")
    views, labels = source(3)
    chosen = batch_indices(20, 4, 3, seed=3)
    assert torch.equal(views[4:], data.train_images[chosen].float() / 255)
    assert labels.tolist() == data.train_labels[chosen].tolist()


def test_what_a_users_views_raise_names_them(data):
    def fail(images, *, seed, step):
        raise KeyError(step)

    source = make_source(CONFIG, dataclasses.replace(data, views=fail), device="cpu")
    with pytest.raises(UsersError, match="the data set's views raised KeyError on images of shape"):
        source(0)
