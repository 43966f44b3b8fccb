"""Draws are a pure function of their key."""

import numpy as np
import pytest
import torch

from models import randomness


def test_key_is_the_same_on_every_machine():
    assert randomness.key(0, "views", unit="layer1.0", step=3) == 17951757269341067356


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"purpose": "shuffle"},
        {"unit": "stem"},
        {"step": 1},
    ],
)
def test_every_part_of_the_key_counts(other):
    base = {"seed": 0, "purpose": "views", "unit": "", "step": 0}
    changed = base | other

    def draw(seed, purpose, unit, step):
        return randomness.generator(seed, purpose, unit=unit, step=step).random(4)

    assert np.array_equal(draw(**base), draw(**base))
    assert not np.array_equal(draw(**base), draw(**changed))


def test_torch_draws_follow_the_key_and_not_the_past():
    randomness.seed_torch(0, "init", unit="stem")
    first = torch.rand(3)
    torch.rand(100)
    randomness.seed_torch(0, "init", unit="stem")
    assert torch.equal(torch.rand(3), first)
