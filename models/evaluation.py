"""How good frozen features are, after every unit: kNN and linear top-1 on held-out images.

Owns the measure only: it builds its own network from the weights, so that nothing it does can
reach the one that trains. Images without a label (-1) are left out.

Shapes: N images, F features, K classes.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.data import ImageData
from models.network import Network, Plain, build_plain, run_unit
from models.pooling import pool

NUM_NEIGHBOURS = 20
KNN_TEMPERATURE = 0.07
MOST_ITERATIONS = 1000  # of a linear fit; after the default run the digits take 50 to 80
PROBED_ITERATIONS = 5

Tell = Callable[..., None]  # takes a phase that begins or goes on, and takes_s: at most so long


@dataclass(frozen=True, kw_only=True)
class UnitAccuracy:
    """Top-1 (0 to 1) of the features after one unit."""

    name: str
    linear_top1: float
    knn_top1: float


def unit_features(
    network: Network,
    state: dict[str, Tensor],
    images: Tensor,
    *,
    batch_size: int = 256,
    going_on: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (unit name, pooled features (N, F) float32) for every unit, lowest first.

    Runs on the images' device. `state` is the plain network's state dict (a classifier `fc` is
    left out); it is copied and stays as it is. `going_on` is called with every batch. Raises
    ValueError if it belongs to another network, and UsersError if a unit raises in eval mode.
    """
    plain = _restore(network, state).to(images.device)
    per_unit: list[list[Tensor]] = [[] for _ in network.units]
    with torch.inference_mode():
        for batch in torch.split(images, batch_size):
            going_on()
            x = batch.clone()  # a user's unit may work in place: on this copy, not on the data
            for index, (module, batches) in enumerate(zip(plain.order, per_unit, strict=True)):
                x = run_unit(network, index, module, x)
                batches.append(pool(x).flatten(1).float().cpu().clone())
    for unit, batches in zip(network.units, per_unit, strict=True):
        yield unit.name, torch.cat(batches).numpy()


def evaluate(
    network: Network, state: dict[str, Tensor], data: ImageData, *, tell: Tell | None = None
) -> list[UnitAccuracy]:
    """Measure every unit's features: fitted on the training images, top-1 on the test images.

    Deterministic. `tell` hears what is being done, and how long all of it can take. Raises
    ValueError if labels are missing or features are not finite.
    """
    tell = tell or _unheard
    train, test = data.train_labels >= 0, data.test_labels >= 0
    train_labels, test_labels = data.train_labels[train].numpy(), data.test_labels[test].numpy()
    num_classes = len(np.unique(train_labels))
    if num_classes < 2 or len(test_labels) == 0:
        raise ValueError(
            f"{num_classes} labelled classes to train on, {len(test_labels)} "
            "labelled test images; evaluation needs at least 2 and 1"
        )
    counted = f"{len(train_labels)} training and {len(test_labels)} test images"
    going_on = partial(tell, f"computing the features of {counted}")
    going_on()
    units = [
        (name, *_standardise(train_NF, test_NF))
        for (name, train_NF), (_, test_NF) in zip(
            unit_features(network, state, data.train_images[train], going_on=going_on),
            unit_features(network, state, data.test_images[test], going_on=going_on),
            strict=True,
        )
    ]
    for name, *features in units:
        if not all(np.isfinite(part).all() for part in features):
            raise ValueError(
                f"the features after unit {name!r} are not finite; the run has diverged, lower "
                "its learning rate"
            )
    most_s = _most_seconds([train_NF for _, train_NF, _ in units], train_labels)
    tell(f"fitting {len(units)} classifiers of {num_classes} classes: {most_s:.0f} s at most")
    accuracies = []
    for index, (name, train_NF, test_NF) in enumerate(units, start=1):
        tell(f"evaluating unit {name} ({index} of {len(units)})", takes_s=most_s)
        accuracies.append(
            UnitAccuracy(
                name=name,
                linear_top1=linear_top1(train_NF, train_labels, test_NF, test_labels),
                knn_top1=knn_top1(train_NF, train_labels, test_NF, test_labels),
            )
        )
    return accuracies


def _unheard(phase: str, *, takes_s: float = 0.0) -> None:
    del phase, takes_s


def linear_top1(
    train_NF: np.ndarray, train_labels: np.ndarray, test_NF: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return top-1 of logistic regression on standardised features, fitted to convergence or for
    MOST_ITERATIONS."""
    classifier = _fit(train_NF, train_labels, MOST_ITERATIONS)
    return float((classifier.predict(test_NF) == test_labels).mean())


def _fit(train_NF: np.ndarray, labels: np.ndarray, most_iterations: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=most_iterations).fit(train_NF, labels)


def _most_seconds(features: list[np.ndarray], labels: np.ndarray) -> float:
    """What all fits take at most, from a few iterations on the widest features."""
    widest = max(features, key=lambda train_NF: train_NF.shape[1])
    _fit(widest, labels, 1)  # the first one imports and warms up
    began_s = time.perf_counter()
    fitted = _fit(widest, labels, PROBED_ITERATIONS)
    iteration_s = (time.perf_counter() - began_s) / max(1, int(fitted.n_iter_[0]))
    share: float = sum(train_NF.shape[1] for train_NF in features) / widest.shape[1]
    return share * MOST_ITERATIONS * iteration_s


def knn_top1(
    train_NF: np.ndarray, train_labels: np.ndarray, test_NF: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return top-1 of the 20 nearest by cosine, weighted by exp(cosine / 0.07).

    arXiv 1805.01978, section 3.4. The bank is searched in slices, so that it may be large.
    """
    bank_NF = functional.normalize(torch.from_numpy(train_NF))
    targets = torch.from_numpy(train_labels)
    num_neighbours = min(NUM_NEIGHBOURS, len(bank_NF))
    num_correct = 0
    queries = torch.split(functional.normalize(torch.from_numpy(test_NF)), 256)
    answers = torch.split(torch.from_numpy(test_labels), 256)
    for query_NF, labels in zip(queries, answers, strict=True):
        cosines, nearest = (query_NF @ bank_NF.T).topk(num_neighbours)
        votes_NK = torch.zeros(len(query_NF), int(targets.max()) + 1)
        votes_NK.scatter_add_(1, targets[nearest], (cosines / KNN_TEMPERATURE).exp())
        num_correct += int((votes_NK.argmax(dim=1) == labels).sum())
    return num_correct / len(test_labels)


def _restore(network: Network, state: dict[str, Tensor]) -> Plain:
    plain = build_plain(network, seed=0)
    weights = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    weights |= {name: state[name] for name in plain.state_dict() if name in state}
    try:
        plain.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"these are not the weights of network {network.name!r}; evaluate them with the model "
            f"that they were trained with: {error}"
        ) from error
    return plain.eval().requires_grad_(False)


def _standardise(train_NF: np.ndarray, test_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each feature mean 0 and deviation 1 on the training images; dead ones become 0."""
    mean_F, std_F = train_NF.mean(axis=0), train_NF.std(axis=0)
    std_F = np.where(std_F > 1e-8, std_F, 1.0)
    return (train_NF - mean_F) / std_F, (test_NF - mean_F) / std_F
