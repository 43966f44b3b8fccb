"""The picture of lags: which records stand for which lag."""

import pytest

from benchmarks.lag.sweep import REAL, SIMULATED, Options, accuracies, draw, shares, show, slept

ACCURACY = [
    {"header": {}},
    {"method": "LoCo exact", "linear_top1": 0.9},
    {"method": "gradient, lag 4", "linear_top1": 0.8},
    {"method": "gradient, lag 4", "linear_top1": 0.7},
    {"method": "elastic, lag 1", "linear_top1": 0.6},
]
RECORDS = [
    {"jitter": "often", "system": system, "lag": lag, "share_of_full_rate": share}
    for system, lag, share in (
        (SIMULATED, 0, 0.5),
        (SIMULATED, 1, 0.7),
        (SIMULATED, 1, 0.9),
        (REAL, 1, 0.75),
    )
]


def test_exact_method_is_the_gradient_tie_with_lag_0():
    found = accuracies(ACCURACY, "gradient")
    assert list(found) == [0, 4]
    assert found[4] == pytest.approx((0.75, 0.7, 0.8))
    assert list(accuracies(ACCURACY, "elastic")) == [1]


def test_shares_are_of_one_system():
    assert shares(RECORDS, "often", SIMULATED)[1].median == pytest.approx(0.8)
    assert list(shares(RECORDS, "often", REAL)) == [1]


def test_window_grows_with_the_lag():
    windows = [slept(Options(), lag, "", 0).window for lag in (0, 1, 4)]
    assert windows == [2, 2, 5]


def test_lag_without_accuracy_has_its_place(tmp_path, capsys):
    show(RECORDS, ACCURACY)
    draw(RECORDS, ACCURACY, tmp_path / "lag.png")
    assert "0.800 (0.750)" in capsys.readouterr().out
    assert (tmp_path / "lag.png").read_bytes().startswith(b"\x89PNG")
