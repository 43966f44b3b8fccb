"""Evaluation measures frozen features on held-out images, and changes nothing."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from models import randomness
from models.data import ImageData, load_data
from models.evaluation import features
from models.evaluation.knn import knn_top1
from models.evaluation.logistic import logistic_top1
from models.evaluation.protocol import EvaluationProtocol
from models.evaluation.unit_accuracy import evaluate
from models.mlp import mlp
from models.network import build_plain, from_sequential
from models.plugins import UsersError

from .conftest import NETWORK, separable

PROTOCOLS = [EvaluationProtocol(linear=linear, epochs=5) for linear in ("logistic", "sgd", "none")]
NAMES = [unit.name for unit in NETWORK.units]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.linear)
def test_backbone_is_frozen_and_in_eval_mode(state, digits, protocol, monkeypatch):
    """p3i0t's SimCLR, issue 8: a "linear" evaluation that trained the backbone claimed 92.9."""
    given = {name: tensor.clone() for name, tensor in state.items()}
    restored = []
    restore = features._restore
    monkeypatch.setattr(
        features, "_restore", lambda *args: restored.append(restore(*args)) or restored[-1]
    )
    evaluate(NETWORK, state, digits, protocol=protocol)
    assert len(restored) == 2  # for the training and the test images
    for plain in restored:
        assert not any(module.training for module in plain.modules())
        assert not any(parameter.requires_grad for parameter in plain.parameters())
        after = plain.state_dict()  # with BatchNorm's statistics and count
        assert after.keys() == given.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in given.items())
    assert state.keys() == given.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in given.items())


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.linear)
def test_evaluation_is_deterministic_and_names_every_unit(state, digits, protocol):
    accuracies = evaluate(NETWORK, state, digits, protocol=protocol)
    assert [accuracy.name for accuracy in accuracies] == NAMES
    assert [accuracy.num_features for accuracy in accuracies] == [4, 4, 8, 16, 32]
    assert all((a.linear_top1 is None) == (protocol.linear == "none") for a in accuracies)
    assert evaluate(NETWORK, state, digits, protocol=protocol) == accuracies


def test_choice_of_units_moves_no_figure(state, digits):
    every = evaluate(NETWORK, state, digits)
    assert evaluate(NETWORK, state, digits, units=[1, 4]) == [every[1], every[4]]


def test_neighbours_are_those_of_the_protocol(state, digits):
    default, *others = [
        evaluate(NETWORK, state, digits, protocol=EvaluationProtocol(linear="none", **figures))
        for figures in ({}, {"k": 3}, {"temperature": 5.0})
    ]
    assert all(other != default for other in others)


@pytest.mark.parametrize("linear", ["logistic", "sgd"])
def test_only_raw_features_have_a_scale(state, digits, linear):
    """As published, SGD takes features as they are, at one learning rate: those of low units, which
    are small, were left under-fitted."""

    class Scaled(nn.Module):
        def forward(self, x):
            return x.flatten(1) * torch.linspace(0.001, 0.1, 256)

    def top1(module: type[nn.Module], kind: str) -> float:
        network = from_sequential("scaled", lambda: nn.Sequential(module()), seed=0)
        protocol = EvaluationProtocol(linear=linear, features=kind, epochs=5)
        (accuracy,) = evaluate(network, {}, digits, protocol=protocol)
        return accuracy.linear_top1 + accuracy.knn_top1

    assert top1(Scaled, "standardised") == pytest.approx(top1(nn.Flatten, "standardised"), abs=0.01)
    assert abs(top1(Scaled, "raw") - top1(nn.Flatten, "raw")) > 0.03


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


@pytest.mark.parametrize("linear", ["logistic", "sgd"])
def test_pixels_of_digits_tell_them_apart(linear):
    data = load_data("digits", seed=0)
    network = from_sequential("pixels", lambda: nn.Sequential(nn.Flatten()), seed=0)
    (accuracy,) = evaluate(network, {}, data, protocol=EvaluationProtocol(linear=linear))
    assert 0.93 < accuracy.linear_top1 < 1
    assert 0.93 < accuracy.knn_top1 < 1


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.linear)
def test_unlabelled_images_neither_vote_nor_count(state, digits, protocol):
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
    marked_found, cut_found = (
        evaluate(NETWORK, state, data, protocol=protocol) for data in (marked, cut)
    )
    assert marked_found == cut_found


@pytest.mark.parametrize("protocol", PROTOCOLS[:2], ids=lambda protocol: protocol.linear)
def test_test_images_are_never_fitted(state, digits, protocol):
    """Each half of the test images gets the figure that it gets beside the other half."""

    def top1(rows: slice) -> list[float]:
        part = dataclasses.replace(
            digits, test_images=digits.test_images[rows], test_labels=digits.test_labels[rows]
        )
        found = evaluate(NETWORK, state, part, protocol=protocol)
        return [figure for a in found for figure in (a.linear_top1, a.knn_top1)]

    lower, upper, whole = top1(slice(64)), top1(slice(64, 128)), top1(slice(128))
    assert whole == pytest.approx([(a + b) / 2 for a, b in zip(lower, upper, strict=True)])


def test_too_few_labels_are_refused(state, digits):
    unlabelled = dataclasses.replace(digits, train_labels=torch.full((300,), -1))
    with pytest.raises(ValueError, match="needs at least 2 and 1"):
        evaluate(NETWORK, state, unlabelled)


def test_features_that_diverged_are_refused(state, digits):
    broken = state | {
        "layer2.0.conv1.weight": torch.full_like(state["layer2.0.conv1.weight"], 1e38)
    }
    with pytest.raises(ValueError, match=r"'layer2\.0' are not finite"):
        evaluate(NETWORK, broken, digits)


def knn(*split) -> float:
    return knn_top1(*split, k=20, temperature=0.07)


@pytest.mark.parametrize("top1", [knn, logistic_top1])
def test_measures_find_what_is_separable_and_nothing_else(top1):
    train_NF, train_labels = separable(100, 0)
    test_NF, test_labels = separable(600, 1)
    assert top1(train_NF, train_labels, test_NF, test_labels) > 0.98
    blind = top1(train_NF[:, 1:], train_labels, test_NF[:, 1:], test_labels)
    assert blind == pytest.approx(0.5, abs=0.08)


def test_dead_feature_is_harmless(digits):
    class Dead(nn.Module):
        def forward(self, x):
            return torch.cat([x.flatten(1), torch.ones(len(x), 1)], dim=1)

    network = from_sequential("dead", lambda: nn.Sequential(Dead()), seed=0)
    (accuracy,) = evaluate(network, {}, digits)
    assert accuracy.linear_top1 > 0.8


@pytest.mark.parametrize(
    ("protocol", "plan"),
    [
        (PROTOCOLS[0], r"fitting 5 classifiers of 10 classes: \d+ s at most"),
        (PROTOCOLS[1], r"fitting 5 classifiers of 10 classes: 5 epochs in batches of 16"),
        (PROTOCOLS[2], r"finding each test image's 20 nearest for 5 units"),
    ],
    ids=lambda value: getattr(value, "linear", ""),
)
def test_phase_is_told_with_a_bound_before_it_begins(state, digits, protocol, plan):
    """100 classes and 5,000 images took 46 s in silence."""
    told: list[str] = []
    limits: list[float] = []

    def tell(phase: str, *, takes_s: float = 0.0) -> None:
        told.extend([phase] if phase not in told else [])
        limits.append(takes_s)

    evaluate(NETWORK, state, digits, protocol=protocol, tell=tell)
    assert limits.count(0.0) >= 4  # with every batch, so that only a standstill is one
    assert (min(limits[-5:]) > 0.0) == (protocol.linear == "logistic")
    assert told[0] == "computing the features of 300 training and 150 test images"
    assert re.fullmatch(plan, told[1])
    assert told[2:] == [f"evaluating unit {name} ({i} of 5)" for i, name in enumerate(NAMES, 1)]


def test_unit_that_fails_in_eval_mode_is_named(digits):
    class OnlyTrains(nn.Module):
        def forward(self, x):
            assert self.training
            return x

    units = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), OnlyTrains())
    network = from_sequential("mine:build", lambda: units, seed=0)
    with pytest.raises(UsersError, match=r"unit '2' \(3 of 3\) of model 'mine:build' raised"):
        evaluate(network, build_plain(network, seed=0).state_dict(), digits)


def test_bytes_are_measured_as_the_floats_that_they_stand_for():
    images = torch.randint(0, 256, (40, 1, 16, 16), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    parts = {"train_labels": labels, "test_labels": labels, "num_classes": 2}
    network = mlp(256)
    state = build_plain(network, seed=0).state_dict()
    of_bytes = ImageData(train_images=images, test_images=images, **parts)
    floats = images.float() / 255
    of_floats = ImageData(train_images=floats, test_images=floats, **parts)
    assert evaluate(network, state, of_bytes) == evaluate(network, state, of_floats)
