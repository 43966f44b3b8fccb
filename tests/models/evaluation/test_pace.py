"""The time left is told from time to time, from what was done so far."""

from models.evaluation.pace import EVERY_S, Pace


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_short_work_tells_nothing_of_the_time_left():
    clock = Clock()
    pace = Pace(100, clock=clock)
    clock.now_s += EVERY_S - 1
    assert pace.left(50) == ""


def test_time_left_is_that_of_the_work_left():
    clock = Clock()
    pace = Pace(100, clock=clock)
    clock.now_s += EVERY_S
    assert pace.left(0) == ""
    assert pace.left(25) == ": about 30 s left"


def test_words_stay_until_their_time():
    clock = Clock()
    pace = Pace(100, clock=clock)
    clock.now_s += EVERY_S
    first = pace.left(25)
    clock.now_s += EVERY_S - 1
    assert pace.left(90) == first
    clock.now_s += 1
    assert pace.left(50) == ": about 20 s left"
