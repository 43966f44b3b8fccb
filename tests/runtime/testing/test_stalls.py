"""Stalls: their notation, and that the draws are those of the distribution asked for."""

import statistics

import pytest

from runtime.testing.stalls import parse_stalls

STEPS = range(2000)


def test_no_jitter_is_no_stall():
    assert parse_stalls("")(3, 5) == 0.0


def test_exponential_stalls_have_the_mean_and_spread_asked_for():
    stall = parse_stalls("exponential:0.2")
    drawn = [stall(0, step) for step in STEPS]
    assert min(drawn) >= 0.0
    assert statistics.fmean(drawn) == pytest.approx(0.2, abs=0.02)
    assert statistics.stdev(drawn) == pytest.approx(0.2, abs=0.02)


def test_rare_stalls_are_long_and_as_rare_as_asked_for():
    stall = parse_stalls("rare:0.02x10")
    drawn = [stall(0, step) for step in STEPS]
    assert set(drawn) == {0.0, 10.0}
    assert drawn.count(10.0) == pytest.approx(40, abs=12)


def test_draw_is_a_function_of_seed_block_and_step():
    stall = parse_stalls("exponential:0.2")
    assert stall(1, 7) == parse_stalls("exponential:0.2")(1, 7)
    others = {stall(1, 7), stall(2, 7), stall(1, 8), parse_stalls("exponential:0.2", seed=1)(1, 7)}
    assert len(others) == 4
    assert stall(0, 0) == pytest.approx(0.06271121755653869)  # on any machine


@pytest.mark.parametrize("text", ["0.2", "exponential", "exponential:-1", "rare:2x10", "rare:0.1"])
def test_notation_that_is_wrong_is_refused_with_those_that_exist(text):
    with pytest.raises(ValueError, match=r"exponential:0\.2 .*rare:0\.02x10"):
        parse_stalls(text)
