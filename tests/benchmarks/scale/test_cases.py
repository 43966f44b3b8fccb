"""The scale benchmark's cases, simulated: what a record says, and when a rate counts."""

import pytest

from benchmarks.scale import cases as curve_cases
from benchmarks.scale.curves import Options, make_site

SITE = make_site(Options(workers_per_host=2), [])


def simulated(**changes):
    settings = {"workers": (2, 4), "steps": 6, "step_s": 0.06, "message_bytes": 4000}
    all_cases = curve_cases.scale_cases(
        SITE, **settings | {"jitters": ("", "exponential:0.2")} | changes
    )
    return [curve_cases.simulate_case(case) for case in all_cases]


def test_record_says_what_the_curves_show():
    lag_0, lag_1, _ = simulated(workers=(4,), jitters=("",))
    assert (lag_0["curve"], lag_0["hosts"]) == ("lag 0, window 2", 2)
    assert lag_0["share_of_full_rate"] < 0.8 < lag_1["share_of_full_rate"] < 1
    assert lag_0["fill_s"] == pytest.approx(0.12, rel=0.1)  # three forwards and a step
    assert lag_0["retained_bytes"] > lag_0["retained_bytes_per_worker"] > 0


def test_rate_is_counted_when_it_is_steady():
    records = simulated(workers=(2, 8), jitters=("",), steps=20)
    shares = {r["workers"]: r["share_of_full_rate"] for r in records if r["lag"] == 1}
    assert shares[8] == pytest.approx(shares[2], abs=1e-3)


def test_lowest_worker_runs_ahead_until_the_rate_is_steady(monkeypatch):
    monkeypatch.setattr(curve_cases, "WARM_UP", 1)
    (record,) = [r for r in simulated(workers=(8,), steps=20) if r["lag"] == 4 and r["jitter"]]
    assert record["share_of_full_rate"] < record["share_of_lowest_worker"] < 1
