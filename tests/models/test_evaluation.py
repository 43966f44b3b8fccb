"""Evaluation measures frozen features on held-out images, and changes nothing."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import nn

from models import evaluation, randomness
from models.data import load_data
from models.evaluation import evaluate, knn_top1, linear_top1, unit_features
from models.mlp import mlp
from models.network import build_plain, from_sequential
from models.plugins import UsersError
from models.pooling import pool
from models.resnet import small_resnet

NETWORK = small_resnet(width=4)


@pytest.fixture(scope="module")
def state():
    """Weights whose BatchNorm has seen images, so that its buffers matter."""
    plain = build_plain(NETWORK, seed=0).train()
    with torch.no_grad():
        for step in range(3):
            rng = randomness.generator(0, "test", step=step)
            plain(torch.from_numpy(rng.random((8, 1, 16, 16), dtype=np.float32)))
    return plain.state_dict()


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits", seed=0)
    return dataclasses.replace(
        data,
        train_images=data.train_images[:300],
        train_labels=data.train_labels[:300],
        test_images=data.test_images[:150],
        test_labels=data.test_labels[:150],
    )


def test_backbone_is_frozen_and_in_eval_mode(state, digits):
    """p3i0t's SimCLR, issue 8: a "linear" evaluation that trained the backbone claimed 92.9."""
    before = {name: tensor.clone() for name, tensor in state.items()}
    evaluate(NETWORK, state, digits)
    assert state.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(state[name], tensor), name


def test_features_are_those_of_eval_mode_whatever_the_batch(state, digits):
    plain = build_plain(NETWORK, seed=0)
    plain.load_state_dict(state)
    plain.eval()
    images = digits.test_images[:10]
    with torch.no_grad():
        x = images
        for module, (name, features_NF) in zip(
            plain.order, unit_features(NETWORK, state, images, batch_size=3), strict=True
        ):
            x = module(x)
            assert features_NF.dtype == np.float32
            np.testing.assert_allclose(features_NF, pool(x), rtol=1e-4, atol=1e-5, err_msg=name)


def test_evaluation_is_deterministic_and_names_every_unit(state, digits):
    accuracies = evaluate(NETWORK, state, digits)
    assert [accuracy.name for accuracy in accuracies] == [unit.name for unit in NETWORK.units]
    assert evaluate(NETWORK, state, digits) == accuracies


def test_random_labels_are_at_chance(state, digits):
    rng = randomness.generator(0, "test")
    random = dataclasses.replace(
        digits,
        train_labels=torch.from_numpy(rng.integers(10, size=300)),
        test_labels=torch.from_numpy(rng.integers(10, size=150)),
    )
    for accuracy in evaluate(NETWORK, state, random):
        assert accuracy.linear_top1 < 0.2
        assert accuracy.knn_top1 < 0.2


def test_pixels_of_digits_tell_them_apart():
    data = load_data("digits", seed=0)
    network = from_sequential("pixels", lambda: nn.Sequential(nn.Flatten()), seed=0)
    (accuracy,) = evaluate(network, {}, data)
    assert 0.93 < accuracy.linear_top1 < 1
    assert 0.93 < accuracy.knn_top1 < 1


def test_unlabelled_images_neither_vote_nor_count(state, digits):
    """solo-learn, issue 198: unlabelled -1 counted as a class in kNN."""
    marked = dataclasses.replace(
        digits,
        train_labels=torch.cat([digits.train_labels[:200], torch.full((100,), -1)]),
        test_labels=torch.cat([digits.test_labels[:90], torch.full((60,), -1)]),
    )
    cut = dataclasses.replace(
        digits,
        train_images=digits.train_images[:200],
        train_labels=digits.train_labels[:200],
        test_images=digits.test_images[:90],
        test_labels=digits.test_labels[:90],
    )
    assert evaluate(NETWORK, state, marked) == evaluate(NETWORK, state, cut)


def test_too_few_labels_are_refused(state, digits):
    unlabelled = dataclasses.replace(digits, train_labels=torch.full((300,), -1))
    with pytest.raises(ValueError, match="needs at least 2 and 1"):
        evaluate(NETWORK, state, unlabelled)


def test_weights_of_another_network_are_refused(state, digits):
    with pytest.raises(ValueError, match="not the weights of network 'mlp'"):
        list(unit_features(mlp(256), state, digits.test_images))


def test_classifier_in_the_weights_is_left_out(state, digits):
    whole = state | {"fc.weight": torch.zeros(10, 32), "fc.bias": torch.zeros(10)}
    images = digits.test_images[:4]
    for (_, with_fc), (_, without) in zip(
        unit_features(NETWORK, whole, images), unit_features(NETWORK, state, images), strict=True
    ):
        assert np.array_equal(with_fc, without)


def test_features_that_diverged_are_refused(state, digits):
    broken = state | {
        "layer2.0.conv1.weight": torch.full_like(state["layer2.0.conv1.weight"], 1e38)
    }
    with pytest.raises(ValueError, match=r"'layer2\.0' are not finite"):
        evaluate(NETWORK, broken, digits)


def separable(num, step):
    rng = randomness.generator(0, "test", step=step)
    labels = np.arange(num) % 2
    features_NF = rng.standard_normal((num, 3), dtype=np.float32)
    features_NF[:, 0] += 8 * (labels - 0.5)
    return features_NF, labels


@pytest.mark.parametrize("top1", [knn_top1, linear_top1])
def test_measures_find_what_is_separable_and_nothing_else(top1):
    train_NF, train_labels = separable(100, 0)
    test_NF, test_labels = separable(600, 1)
    assert top1(train_NF, train_labels, test_NF, test_labels) > 0.98
    blind = top1(train_NF[:, 1:], train_labels, test_NF[:, 1:], test_labels)
    assert blind == pytest.approx(0.5, abs=0.08)


def test_knn_takes_no_more_neighbours_than_there_are():
    train_NF, train_labels = separable(4, 0)
    assert knn_top1(train_NF, train_labels, *separable(10, 1)) > 0.5


def test_dead_feature_is_harmless(digits):
    class Dead(nn.Module):
        def forward(self, x):
            return torch.cat([x.flatten(1), torch.ones(len(x), 1)], dim=1)

    network = from_sequential("dead", lambda: nn.Sequential(Dead()), seed=0)
    (accuracy,) = evaluate(network, {}, digits)
    assert accuracy.linear_top1 > 0.8


def test_unit_that_works_in_place_spoils_no_data_or_features():
    def build():
        return nn.Sequential(nn.Flatten(), nn.Hardtanh(0.4, 0.6, inplace=True))

    images = torch.linspace(0, 1, 8).reshape(2, 1, 2, 2)
    before = images.clone()
    network = from_sequential("in place", build, seed=0)
    (_, flat_NF), (_, clipped_NF) = unit_features(network, {}, images)
    assert torch.equal(images, before)
    assert np.array_equal(flat_NF, before.flatten(1))
    assert np.array_equal(clipped_NF, before.flatten(1).clamp(0.4, 0.6))


def test_phase_is_told_with_a_bound_before_it_begins(state, digits):
    """100 classes and 5,000 images took 46 s in silence."""
    told: list[str] = []
    limits: list[float] = []

    def tell(phase: str, *, takes_s: float = 0.0) -> None:
        told.extend([phase] if phase not in told else [])
        limits.append(takes_s)

    evaluate(NETWORK, state, digits, tell=tell)
    assert limits.count(0.0) >= 4  # with every batch, so that only a standstill is one
    assert min(limits[-5:]) > 0.0
    assert told[0] == "computing the features of 300 training and 150 test images"
    assert re.fullmatch(r"fitting 5 classifiers of 10 classes: \d+ s at most", told[1])
    assert told[2:] == [
        f"evaluating unit {name} ({i} of 5)"
        for i, name in enumerate(["stem", "layer1.0", "layer2.0", "layer3.0", "layer4.0"], start=1)
    ]


def test_fit_that_does_not_converge_ends(monkeypatch):
    """It had 10,000 iterations, whatever they took, and a warning that is an error in tests."""
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((200, 30)), rng.integers(0, 5, 200)
    monkeypatch.setattr(evaluation, "MOST_ITERATIONS", 2)
    assert 0 <= linear_top1(features, labels, features, labels) <= 1


def test_unit_that_fails_in_eval_mode_is_named(digits):
    class OnlyTrains(nn.Module):
        def forward(self, x):
            assert self.training
            return x

    units = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), OnlyTrains())
    network = from_sequential("mine:build", lambda: units, seed=0)
    with pytest.raises(UsersError, match=r"unit '2' \(3 of 3\) of model 'mine:build' raised"):
        evaluate(network, build_plain(network, seed=0).state_dict(), digits)
