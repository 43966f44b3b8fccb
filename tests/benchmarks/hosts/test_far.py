"""What a slow link leaves: its times, and the lag and window that they take."""

import pytest

from benchmarks.hosts.far import Link, Options, bytes_of


def test_times_of_a_link_are_its_delay_and_its_rate():
    link = Link.of(1_250_000, 125_000, rtt_s=0.05, bits_per_s=100e6)
    assert link.wire_s == pytest.approx(0.1)
    assert link.up_s == pytest.approx(0.125)
    assert link.down_s == pytest.approx(0.035)
    assert link.credit_s == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("step_s", "lag", "window"),
    [
        (1.0, 2, 2),  # 2 + .16 steps of a lag; 1.15 in flight
        (0.01, 1, 2),  # the link is the pace: 1.8 of its messages; 1.6 in flight
    ],
)
def test_lag_and_window_are_the_least_of_full_rate(step_s, lag, window):
    link = Link.of(1_250_000, 125_000, rtt_s=0.05, bits_per_s=100e6)
    assert link.lag_and_window(step_s) == (lag, window)


def test_rounding_halves_what_crosses():
    flags = [*Options().flags.split(), "--workers=2", "--model=mlp", "--threads=1"]
    up, down = bytes_of(flags)
    rounded = bytes_of([*flags, "--wire-precision=bf16", "--wire-ties"])
    labels = 8 * 64  # integers, which cross as they are
    assert rounded == ((up - labels) // 2 + labels, down // 2)
