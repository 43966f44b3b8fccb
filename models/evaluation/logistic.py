"""A linear classifier by logistic regression, fitted to convergence on all features at once.

Owns the fit, and how long it can take. Knows nothing of where features come from.

Shapes: N images, F features.
"""

import time
import warnings
from typing import Any

import numpy as np

MOST_ITERATIONS = 1000  # after the default run the digits take 50 to 80
PROBED_ITERATIONS = 5


def logistic_top1(
    train_NF: np.ndarray, train_labels: np.ndarray, test_NF: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return top-1 of logistic regression, fitted to convergence or for MOST_ITERATIONS.

    The summed loss bears half the squared weights beside it, which weighs less the more images
    there are. Give standardised features. All labels must be known.
    """
    classifier = _fit(train_NF, train_labels, MOST_ITERATIONS)
    return float((classifier.predict(test_NF) == test_labels).mean())


def most_seconds(train_NF: np.ndarray, train_labels: np.ndarray) -> float:
    """What one fit takes at most, from a few iterations."""
    _fit(train_NF, train_labels, 1)  # the first one imports and warms up
    began_s = time.perf_counter()
    fitted = _fit(train_NF, train_labels, PROBED_ITERATIONS)
    iteration_s = (time.perf_counter() - began_s) / max(1, int(fitted.n_iter_[0]))
    return MOST_ITERATIONS * iteration_s


def _fit(train_NF: np.ndarray, labels: np.ndarray, most_iterations: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=most_iterations).fit(train_NF, labels)
