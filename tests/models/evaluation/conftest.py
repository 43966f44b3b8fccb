"""A small network that has seen images, and a few digits for it."""

import dataclasses

import numpy as np
import pytest
import torch

from models import randomness
from models.data import ImageData, load_data
from models.network import build_plain
from models.resnet import small_resnet

NETWORK = small_resnet(width=4)


@pytest.fixture(scope="session")
def state():
    """Weights whose BatchNorm has seen images, so that its buffers matter."""
    plain = build_plain(NETWORK, seed=0).train()
    with torch.no_grad():
        for step in range(3):
            rng = randomness.generator(0, "test", step=step)
            plain(torch.from_numpy(rng.random((8, 1, 16, 16), dtype=np.float32)))
    return plain.state_dict()


@pytest.fixture(scope="session")
def digits() -> ImageData:
    data = load_data("digits", seed=0)
    return dataclasses.replace(
        data,
        train_images=data.train_images[:300],
        train_labels=data.train_labels[:300],
        test_images=data.test_images[:150],
        test_labels=data.test_labels[:150],
    )


def separable(num: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of two classes, of which the first alone tells them apart; and their labels."""
    rng = randomness.generator(0, "test", step=step)
    labels = np.arange(num) % 2
    features_NF = rng.standard_normal((num, 3), dtype=np.float32)
    features_NF[:, 0] += 8 * (labels - 0.5)
    return features_NF, labels
