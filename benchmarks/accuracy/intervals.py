"""A mean over seeds with its interval.

Owns the statistic: Student's t. Knows nothing of what was measured.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student_t


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and half the width of its 95 % interval, in points."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean's 95 % interval by Student's t with n - 1 degrees of freedom."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} values give no interval; run at least 2 seeds")
    spread = statistics.stdev(values) / len(values) ** 0.5
    return Interval(
        mean=statistics.fmean(values),
        half_width=float(student_t.ppf(0.975, len(values) - 1)) * spread,
    )
