"""How features are measured: which linear classifier, how many neighbours, how they vote.

Owns the figures that a user may choose, and their checks. Knows nothing of features.
"""

import math
from dataclasses import dataclass
from typing import Literal

Linear = Literal["logistic", "sgd", "none"]
Features = Literal["standardised", "raw"]


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """The figures of an evaluation; the default is that of a run's end. Raises ValueError for what
    can't be."""

    features: Features = "standardised"
    """Give each feature mean 0 and deviation 1 on the training images, or take it as it is."""
    linear: Linear = "logistic"
    """Linear classifier: logistic regression, SimCLR's SGD, or none."""
    epochs: int = 90
    """Passes over the training images that sgd makes."""
    k: int = 20
    """Nearest training images that vote for a class."""
    temperature: float = 0.07
    """Temperature of a vote's weight, exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs {self.epochs} is not allowed; give at least 1")
        if self.k < 1:
            raise ValueError(f"k {self.k} is not allowed; give at least 1 neighbour")
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature {self.temperature} is not allowed; give a figure above 0, such as 0.1"
            )
