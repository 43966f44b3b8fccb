"""Sleeps add up, and time that a busy core took stays lost."""

import pytest

from runtime.testing.sleeper import MOST_CARRIED_S, Sleeper


class Clock:
    """A clock whose sleeps end late."""

    def __init__(self, late_s: float) -> None:
        self.now_s = 0.0
        self.late_s = late_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.late_s


def test_short_sleeps_take_as_long_together_as_one():
    clock = Clock(late_s=1e-4)
    sleeper = Sleeper(sleep=clock.sleep, clock=lambda: clock.now_s)
    for _ in range(100):
        sleeper.sleep(0.01)
    assert clock.now_s == pytest.approx(1.0 + 1e-4)  # the last one's lateness
    assert sleeper.asked_s == pytest.approx(1.0)


def test_time_that_a_busy_core_took_is_not_given_back():
    clock = Clock(late_s=0.005)
    sleeper = Sleeper(sleep=clock.sleep, clock=lambda: clock.now_s)
    sleeper.sleep(0.01)
    sleeper.sleep(0.01)
    assert clock.now_s == pytest.approx(0.03 - MOST_CARRIED_S)


def test_sleep_shorter_than_the_debt_takes_no_time():
    clock = Clock(late_s=1e-4)
    sleeper = Sleeper(sleep=clock.sleep, clock=lambda: clock.now_s)
    sleeper.sleep(0.01)
    sleeper.sleep(4e-5)
    assert clock.now_s == pytest.approx(0.01 + 1e-4)
    sleeper.sleep(0.01)
    assert clock.now_s == pytest.approx(0.02 + 4e-5 + 1e-4)
