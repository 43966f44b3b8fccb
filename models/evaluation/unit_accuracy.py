"""How good frozen features are, after every unit that is asked for: linear and kNN top-1.

Owns the whole measure: what is fitted on the training images, what is counted on the test images,
and what is told meanwhile. Images without a label (-1) are left out. Knows nothing of blocks.

Shapes: N images, F features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.data import ImageData
from models.evaluation import logistic, sgd
from models.evaluation.features import unit_features
from models.evaluation.knn import knn_top1, num_neighbours
from models.evaluation.pace import Pace
from models.evaluation.protocol import EvaluationProtocol, Features
from models.network import Network
from models.tell import Tell, unheard


@dataclass(frozen=True, kw_only=True)
class UnitAccuracy:
    """Top-1 (0 to 1) of the features after one unit; `linear_top1` is None if not asked for."""

    name: str
    num_features: int
    linear_top1: float | None
    knn_top1: float


def evaluate(
    network: Network,
    state: dict[str, Tensor],
    data: ImageData,
    *,
    units: Sequence[int] | None = None,
    protocol: EvaluationProtocol | None = None,
    seed: int = 0,
    tell: Tell = unheard,
) -> list[UnitAccuracy]:
    """Measure the features after each of `units` (all), lowest first.

    A function of its arguments; `seed` draws the order in which sgd takes the images. `tell` hears
    what is being done, and how long it can take. Raises ValueError if labels are missing, features
    are not finite, or the weights are another network's; UsersError if a unit raises.
    """
    train = _Labelled(data.train_images, data.train_labels)
    test = _Labelled(data.test_images, data.test_labels)
    _check_labels(train, test)
    found = _features(network, state, train, test, units, tell)
    for unit in found:
        unit.check_finite()
    measure = _Measure(protocol or EvaluationProtocol(), seed, train.labels, test.labels)
    most_s = measure.most_seconds(found)
    tell(measure.plan(len(found), most_s))
    num_units, progress = len(found), _Progress(tell, found, most_s)
    accuracies: list[UnitAccuracy] = []
    while found:
        unit = found.pop(0)  # which lets it go when it has been measured
        progress.begin(unit, f"({len(accuracies) + 1} of {num_units})")
        accuracies.append(measure.of(unit, progress.going_on))
    return accuracies


class _Labelled:
    """The labelled of a split's images: all images, their rows in it, and their labels."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.rows = torch.nonzero(labels >= 0).flatten()
        self.labels: np.ndarray = labels[self.rows].numpy()


def _check_labels(train: _Labelled, test: _Labelled) -> None:
    num_classes = len(np.unique(train.labels))
    if num_classes < 2 or len(test.labels) == 0:
        raise ValueError(
            f"{num_classes} labelled classes to train on, {len(test.labels)} "
            "labelled test images; evaluation needs at least 2 and 1"
        )


class _Unit:
    """A unit's features for the training and for the test images."""

    def __init__(self, name: str, train_NF: np.ndarray, test_NF: np.ndarray) -> None:
        self.name = name
        self._train_NF, self._test_NF = train_NF, test_NF
        self.num_features: int = train_NF.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):  # said by check_finite
            self._mean_F, std_F = train_NF.mean(axis=0), train_NF.std(axis=0)
        self._std_F = np.where(std_F > 1e-8, std_F, 1.0)
        self._is_finite = all(np.isfinite(part).all() for part in (self._mean_F, std_F, test_NF))

    def check_finite(self) -> None:
        if not self._is_finite:
            raise ValueError(
                f"the features after unit {self.name!r} are not finite; the run has diverged, lower"
                " its learning rate"
            )

    def split(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """Those of the training and of the test images; dead ones are 0 if standardised."""
        if features == "raw":
            return self._train_NF, self._test_NF
        train_NF, test_NF = (
            (part - self._mean_F) / self._std_F for part in (self._train_NF, self._test_NF)
        )
        return train_NF, test_NF


def _features(
    network: Network,
    state: dict[str, Tensor],
    train: _Labelled,
    test: _Labelled,
    units: Sequence[int] | None,
    tell: Tell,
) -> list[_Unit]:
    num_train, num_test = len(train.rows), len(test.rows)
    phase = f"computing the features of {num_train} training and {num_test} test images"
    pace = Pace(num_train + num_test)
    tell(phase)

    def of(split: _Labelled, num_before: int) -> dict[str, np.ndarray]:
        return unit_features(
            network,
            state,
            split.images,
            units=units,
            rows=split.rows,
            after_batch=lambda num: tell(phase + pace.left(num_before + num)),
        )

    train_NF, test_NF = of(train, 0), of(test, num_train)
    return [_Unit(name, train_NF[name], test_NF[name]) for name in train_NF]


class _Progress:
    """Tells which unit is measured, and how long the rest takes: by the features, of which each
    takes the same time."""

    def __init__(self, tell: Tell, units: Sequence[_Unit], most_s: float) -> None:
        self._tell = tell
        self._most_s = most_s
        self._pace = Pace(sum(unit.num_features for unit in units))
        self._phase = ""
        self._before = self._now = 0  # features of the units that are done, and of this one

    def begin(self, unit: _Unit, place: str) -> None:
        self._before += self._now
        self._now = unit.num_features
        self._phase = f"evaluating unit {unit.name} {place}"
        self.going_on(0.0)

    def going_on(self, share: float) -> None:
        """So much of the unit (0 to 1) is done."""
        left = self._pace.left(self._before + share * self._now)
        self._tell(self._phase + left, takes_s=self._most_s)


class _Measure:
    """What is fitted to one unit's features after the other, on the labels of one data set."""

    def __init__(
        self,
        protocol: EvaluationProtocol,
        seed: int,
        train_labels: np.ndarray,
        test_labels: np.ndarray,
    ) -> None:
        self._protocol = protocol
        self._seed = seed
        self._train_labels = train_labels
        self._test_labels = test_labels

    def most_seconds(self, units: Sequence[_Unit]) -> float:
        """What all fits take at most; 0 if each tells how far it is."""
        if self._protocol.linear != "logistic":
            return 0.0
        widest = max(units, key=lambda unit: unit.num_features)
        train_NF, _ = widest.split(self._protocol.features)
        fit_s = logistic.most_seconds(train_NF, self._train_labels)
        return fit_s * sum(unit.num_features for unit in units) / widest.num_features

    def plan(self, num_units: int, most_s: float) -> str:
        """What is going to be done, in a line."""
        fits = f"fitting {num_units} classifiers of {len(np.unique(self._train_labels))} classes"
        match self._protocol.linear:
            case "logistic":
                return f"{fits}: {most_s:.0f} s at most"
            case "sgd":
                size = sgd.batch_size(len(self._train_labels))
                return f"{fits}: {self._protocol.epochs} epochs in batches of {size}"
        k = num_neighbours(self._protocol.k, len(self._train_labels))
        return f"finding each test image's {k} nearest for {num_units} units"

    def of(self, unit: _Unit, going_on: Callable[[float], None]) -> UnitAccuracy:
        """`going_on` is given the share (0 to 1) that is done: half is the linear classifier's."""
        train_NF, test_NF = unit.split(self._protocol.features)
        split = train_NF, self._train_labels, test_NF, self._test_labels
        linear_top1: float | None = None
        match self._protocol.linear:
            case "logistic":
                linear_top1 = logistic.logistic_top1(*split)
            case "sgd":
                linear_top1 = sgd.sgd_top1(
                    *split,
                    epochs=self._protocol.epochs,
                    seed=self._seed,
                    after_epoch=lambda share: going_on(share / 2),
                )
        return UnitAccuracy(
            name=unit.name,
            num_features=unit.num_features,
            linear_top1=linear_top1,
            knn_top1=knn_top1(
                *split,
                k=self._protocol.k,
                temperature=self._protocol.temperature,
                after_slice=lambda share: going_on((1 + share) / 2),
            ),
        )
