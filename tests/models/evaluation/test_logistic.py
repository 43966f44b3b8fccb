"""Logistic regression is at its optimum, and ends if it does not converge."""

from types import SimpleNamespace

import numpy as np
import pytest

from models import randomness
from models.data import load_data
from models.evaluation import logistic
from models.evaluation.logistic import logistic_top1


def test_top1_of_digits_pixels_is_what_it_was():
    """The figures of all accuracy tables were made by this fit: they may not move."""
    data = load_data("digits", seed=0)
    train_NF, test_NF = (i.flatten(1).numpy() for i in (data.train_images, data.test_images))
    mean_F, std_F = train_NF.mean(axis=0), train_NF.std(axis=0)
    std_F = np.where(std_F > 1e-8, std_F, 1.0)
    train_NF, test_NF = ((part - mean_F) / std_F for part in (train_NF, test_NF))
    found = logistic_top1(train_NF, data.train_labels.numpy(), test_NF, data.test_labels.numpy())
    assert found == pytest.approx(350 / 360)


def test_fit_is_at_the_optimum():
    """The gradient of the summed loss and half the squared weights, in double precision."""
    rng = randomness.generator(0, "test")
    labels = rng.integers(3, size=400)
    x_NF = rng.standard_normal((400, 5)) + rng.standard_normal((3, 5))[labels]
    fitted = logistic._fit(x_NF, labels, 1000)
    scores_NC = x_NF @ fitted.coef_.T + fitted.intercept_
    shares_NC = np.exp(scores_NC - scores_NC.max(axis=1, keepdims=True))
    shares_NC /= shares_NC.sum(axis=1, keepdims=True)
    gradient_CF = (shares_NC - np.eye(3)[labels]).T @ x_NF + fitted.coef_
    assert np.abs(gradient_CF).max() / 400 < 1e-3
    assert np.abs(fitted.coef_).max() > 0.1


def test_fit_that_does_not_converge_ends(monkeypatch):
    """It had 10,000 iterations, whatever they took, and a warning that is an error in tests."""
    rng = randomness.generator(0, "test")
    features, labels = rng.standard_normal((200, 30)), rng.integers(0, 5, 200)
    assert logistic._fit(features, labels, 2).n_iter_ == 2
    asked, fit = [], logistic._fit
    monkeypatch.setattr(logistic, "_fit", lambda *given: asked.append(given[-1]) or fit(*given))
    logistic_top1(features, labels, features, labels)
    assert asked == [logistic.MOST_ITERATIONS]


def test_bound_is_what_all_iterations_take(monkeypatch):
    """The first fit, which imports and warms up, does not count."""
    now_s = 0.0

    def fit(features, labels, most_iterations):
        nonlocal now_s
        now_s += 0.25 * most_iterations if most_iterations > 1 else 100.0
        return SimpleNamespace(n_iter_=[most_iterations])

    monkeypatch.setattr(logistic, "_fit", fit)
    monkeypatch.setattr(logistic, "time", SimpleNamespace(perf_counter=lambda: now_s))
    assert logistic.most_seconds(np.zeros((2, 2)), np.zeros(2)) == 0.25 * logistic.MOST_ITERATIONS
