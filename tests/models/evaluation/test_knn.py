"""kNN votes as arXiv 1805.01978 says, whatever the size of the bank."""

import numpy as np
import pytest

from models import randomness
from models.evaluation.knn import SLICE, knn_top1

from .conftest import separable


def by_hand(train_NF, train_labels, test_NF, test_labels, *, k, temperature) -> float:
    """One image at a time, in double precision, without torch."""
    bank_NF = train_NF / np.linalg.norm(train_NF, axis=1, keepdims=True)
    num_correct = 0
    for features_F, label in zip(test_NF, test_labels, strict=True):
        cosines_N = bank_NF @ (features_F / np.linalg.norm(features_F))
        nearest = np.argsort(-cosines_N)[:k]
        votes = {
            c: np.exp(cosines_N[nearest[train_labels[nearest] == c]] / temperature).sum()
            for c in np.unique(train_labels)
        }
        num_correct += max(votes, key=votes.__getitem__) == label
    return num_correct / len(test_labels)


def clusters(num: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Seven classes that overlap, so that votes are close."""
    rng = randomness.generator(0, "test", step=step)
    centres_CF = randomness.generator(0, "centres").standard_normal((7, 12))
    labels = rng.integers(7, size=num)
    noise_NF = 1.6 * rng.standard_normal((num, 12))
    return (centres_CF[labels] + noise_NF).astype(np.float32), labels


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.1), (20, 1.0)])
def test_top1_is_that_of_brute_force(k, temperature):
    split = (*clusters(500, 0), *clusters(SLICE + 44, 1))
    expected = by_hand(*(part.astype(float) for part in split), k=k, temperature=temperature)
    assert 0.3 < expected < 0.9
    assert knn_top1(*split, k=k, temperature=temperature) == expected


def test_figures_of_the_vote_matter():
    split = (*clusters(500, 0), *clusters(300, 1))
    found = {
        knn_top1(*split, k=k, temperature=temperature)
        for k, temperature in [(1, 0.07), (20, 0.07), (200, 0.07), (200, 10.0)]
    }
    assert len(found) == 4


def test_no_temperature_makes_votes_infinite():
    """exp(1 / 0.01) is no float32: all votes were infinite, and the first class won."""
    split = (*clusters(500, 0), *clusters(300, 1))
    nearest = knn_top1(*split, k=1, temperature=1.0)
    assert knn_top1(*split, k=20, temperature=1e-5) == nearest


def test_no_more_neighbours_vote_than_there_are():
    train_NF, train_labels = separable(4, 0)
    assert knn_top1(train_NF, train_labels, *separable(10, 1), k=20, temperature=0.07) > 0.5


def test_class_that_is_not_in_the_bank_is_never_found():
    train_NF, train_labels = separable(100, 0)
    test_NF, _ = separable(10, 1)
    answers = np.full(10, 5)
    assert knn_top1(train_NF, train_labels, test_NF, answers, k=5, temperature=0.07) == 0


def test_each_slice_tells_what_share_is_done():
    shares: list[float] = []
    split = (*separable(50, 0), *separable(2 * SLICE + 128, 1))
    knn_top1(*split, k=5, temperature=0.07, after_slice=shares.append)
    assert shares == [0.4, 0.8, 1.0]
