"""Means with intervals, by hand."""

import math

import pytest

from benchmarks.accuracy.intervals import t_interval


def test_interval_by_hand():
    # mean 2, deviation 1, so 1 / sqrt(3) of the mean; t(.975, 2 degrees of freedom) = 4.30265
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert interval.low == pytest.approx(2.0 - interval.half_width)
    assert interval.high == pytest.approx(2.0 + interval.half_width)


def test_one_seed_gives_no_interval():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        t_interval([0.97])
