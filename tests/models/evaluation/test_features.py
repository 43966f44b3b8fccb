"""Features are those of a frozen network in eval mode, and no more of them are kept than asked."""

import numpy as np
import pytest
import torch
from torch import nn

from models.evaluation.features import unit_features
from models.mlp import mlp
from models.network import build_plain, from_sequential
from models.pooling import pool

from .conftest import NETWORK


def test_features_are_those_of_eval_mode_whatever_the_batch(state, digits):
    plain = build_plain(NETWORK, seed=0)
    plain.load_state_dict(state)
    plain.eval()
    images = digits.test_images[:10]
    found = unit_features(NETWORK, state, images, batch_size=3)
    assert list(found) == [unit.name for unit in NETWORK.units]
    with torch.no_grad():
        x = images
        for module, (name, features_NF) in zip(plain.order, found.items(), strict=True):
            x = module(x)
            assert features_NF.dtype == np.float32
            np.testing.assert_allclose(features_NF, pool(x), rtol=1e-4, atol=1e-5, err_msg=name)


def test_only_units_that_are_asked_for_are_kept(state, digits):
    images = digits.test_images[:10]
    every = unit_features(NETWORK, state, images)
    some = unit_features(NETWORK, state, images, units=[0, 3])
    assert list(some) == ["stem", "layer3.0"]
    for name, features_NF in some.items():
        assert np.array_equal(features_NF, every[name])


def test_units_above_the_last_that_is_asked_for_do_not_run(digits):
    class Fails(nn.Module):
        def forward(self, x):
            raise AssertionError

    units = nn.Sequential(nn.Flatten(), Fails())
    network = from_sequential("fails above", lambda: units, seed=0)
    (features_NF,) = unit_features(network, {}, digits.test_images, units=[0]).values()
    assert features_NF.shape == (150, 256)


def test_only_rows_that_are_asked_for_are_sent_through(state, digits):
    rows = torch.tensor([7, 2, 9])
    done: list[int] = []
    some = unit_features(
        NETWORK, state, digits.test_images, rows=rows, batch_size=2, after_batch=done.append
    )
    assert done == [2, 3]
    chosen = unit_features(NETWORK, state, digits.test_images[rows], batch_size=2)
    for name, features_NF in chosen.items():
        assert np.array_equal(some[name], features_NF)


def test_classifier_in_the_weights_is_left_out(state, digits):
    whole = state | {"fc.weight": torch.zeros(10, 32), "fc.bias": torch.zeros(10)}
    images = digits.test_images[:4]
    without = unit_features(NETWORK, state, images)
    for name, with_fc in unit_features(NETWORK, whole, images).items():
        assert np.array_equal(with_fc, without[name])


def test_weights_of_another_network_are_refused_in_a_line(state, digits):
    with pytest.raises(ValueError, match="not the weights of network 'mlp'") as refusal:
        unit_features(mlp(256), state, digits.test_images)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_unit_that_works_in_place_spoils_no_data_or_features():
    def build():
        return nn.Sequential(nn.Flatten(), nn.Hardtanh(0.4, 0.6, inplace=True))

    images = torch.linspace(0, 1, 8).reshape(2, 1, 2, 2)
    before = images.clone()
    network = from_sequential("in place", build, seed=0)
    flat_NF, clipped_NF = unit_features(network, {}, images).values()
    assert torch.equal(images, before)
    assert np.array_equal(flat_NF, before.flatten(1))
    assert np.array_equal(clipped_NF, before.flatten(1).clamp(0.4, 0.6))
