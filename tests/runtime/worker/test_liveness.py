"""Silence: dialling anew, less and less often, and an error when it lasts."""

import itertools
from types import SimpleNamespace

import pytest

from runtime.core.plan import Side
from runtime.links.link import LinkError, Unreachable
from runtime.worker.liveness import MAX_REDIAL_S, REDIAL_AFTER_S, Liveness

PATIENCE_S = 100.0
REACH_TIMEOUT_S = 50.0
STEP = 17


class Silent:
    """Two links on which nothing comes, a clock, and a note of who dialled what and when."""

    def __init__(self, *sides: Side, below: str | None = "ipc://below") -> None:
        self.now_s = 50.0
        self.dialled: list[tuple[float, Side, str | None]] = []
        self.links = {
            side: SimpleNamespace(redial=self._dial(side), unreached=None) for side in sides or Side
        }
        self.told: list[str] = []
        self.liveness = Liveness(
            self.links,
            below=SimpleNamespace(latest=below, ask=lambda: None),
            block_index=1,
            tell=self.told.append,
            reach_timeout_s=REACH_TIMEOUT_S,
            patience_s=PATIENCE_S,
            clock=lambda: self.now_s,
        )

    def _dial(self, side: Side):
        return lambda address: self.dialled.append((self.now_s, side, address))

    def check(self, *times_s: float) -> None:
        """Check at these seconds after the start, and each second until then, as a loop does."""
        for time_s in times_s:
            while self.now_s < 50.0 + time_s:
                self.now_s = min(self.now_s + 1.0, 50.0 + time_s)
                self.liveness.check(STEP)
            self.now_s = 50.0 + time_s
            self.liveness.check(STEP)

    def times(self, side: Side) -> list[float]:
        return [now_s - 50.0 for now_s, who, _ in self.dialled if who is side]


def test_worker_below_that_is_not_reached_is_told_and_gives_up():
    silent = Silent()
    silent.links[Side.BELOW].unreached = "tcp://10.0.0.7:4455"
    silent.check(REACH_TIMEOUT_S - 1.0)
    (told,) = silent.told
    assert "worker 1 (host" in told
    assert "worker 0 at tcp://10.0.0.7:4455" in told
    with pytest.raises(Unreachable):
        silent.check(REACH_TIMEOUT_S + 2.0)


def test_second_of_silence_is_nothing():
    silent = Silent()
    silent.check(0.0, 0.5, REDIAL_AFTER_S)
    assert silent.dialled == []


def test_sides_are_both_redialled_after_a_second_of_silence():
    """The lower one by its newest address."""
    silent = Silent()
    silent.check(1.1)
    assert [(side, address) for _, side, address in silent.dialled] == [
        (Side.BELOW, "ipc://below"),
        (Side.ABOVE, None),
    ]


def test_address_that_is_not_known_yet_leaves_the_old_one():
    silent = Silent(Side.BELOW, below=None)
    silent.check(1.1)
    assert [address for _, _, address in silent.dialled] == [None]


def test_wait_doubles_up_to_a_bound_until_something_is_heard():
    silent = Silent(Side.ABOVE)
    silent.check(*(tenth / 10 for tenth in range(10 * int(PATIENCE_S) + 1)))
    times = silent.times(Side.ABOVE)
    waits = [round(b - a, 1) for a, b in itertools.pairwise(times)]
    assert times[0] == pytest.approx(1.1)
    assert waits[:5] == pytest.approx([1, 2, 4, 8, 16], abs=0.2)
    assert waits == sorted(waits)
    assert max(waits) == pytest.approx(MAX_REDIAL_S, abs=0.2)


def test_data_begin_the_patience_anew():
    silent = Silent()
    silent.check(1.1, 2.3, 4.7)
    assert len(silent.times(Side.BELOW)) == 3
    silent.liveness.heard(Side.BELOW, by_data=True)
    silent.dialled.clear()
    silent.check(5.7, 5.8)
    assert silent.times(Side.BELOW) == pytest.approx([5.8])
    assert silent.times(Side.ABOVE) == []


def test_message_that_takes_seconds_to_cross_is_not_lost_by_dialling():
    """Over a link with 100 Mbit/s an activation of 17 MB took 1.3 s. After one the worker dialled
    anew, which lost it; short messages then began the same patience anew, for ever."""
    silent = Silent(Side.BELOW)
    silent.check(1.1)  # the first message is lost
    silent.liveness.heard(Side.BELOW)
    silent.check(2.7)  # the next one crosses, in 1.6 s
    silent.liveness.heard(Side.BELOW, by_data=True)
    assert silent.times(Side.BELOW) == pytest.approx([1.1])
    for begin in range(3, 60, 4):
        silent.check(float(begin))
        silent.liveness.heard(Side.BELOW)
        silent.check(begin + 1.6)
        silent.liveness.heard(Side.BELOW, by_data=True)
    assert silent.times(Side.BELOW) == pytest.approx([1.1])


def test_slow_link_that_breaks_is_dialled_after_twice_its_longest_silence():
    silent = Silent(Side.BELOW)
    silent.check(0.9)
    silent.liveness.heard(Side.BELOW, by_data=True)
    silent.check(*(0.9 + tenth / 10 for tenth in range(30)))
    assert silent.times(Side.BELOW)[0] == pytest.approx(0.9 + 1.8, abs=0.2)


def test_side_is_silent_after_three_seconds():
    silent = Silent(Side.BELOW)
    silent.check(3.0)
    assert not silent.liveness.are_silent
    silent.check(3.1)
    assert silent.liveness.are_silent


def test_side_is_not_silent_while_a_message_crosses_as_long_as_those_before():
    """A stop then waited for no checkpoint: it took the other rank for dead."""
    silent = Silent(Side.BELOW)
    silent.check(1.1, 2.3, 4.7)
    silent.liveness.heard(Side.BELOW)  # of what was dialled nothing came
    silent.check(8.7)
    silent.liveness.heard(Side.BELOW, by_data=True)
    silent.check(12.7)
    assert not silent.liveness.are_silent
    silent.check(16.8)
    assert silent.liveness.are_silent


def test_silence_beyond_all_patience_is_an_error_with_the_step():
    silent = Silent()
    silent.check(PATIENCE_S)
    silent.liveness.heard(Side.ABOVE)
    with pytest.raises(LinkError) as caught:
        silent.check(PATIENCE_S + 0.1)
    assert str(caught.value) == (
        "nothing from the worker below in 100 s, at step 17; can its address be reached from this"
        " host (--bind)?"
    )


def test_neighbour_that_speaks_now_and_then_is_never_given_up():
    silent = Silent(Side.ABOVE)
    for time_s in range(0, 1000, 90):
        silent.check(float(time_s))
        silent.liveness.heard(Side.ABOVE)


def test_worker_that_was_stopped_itself_blames_nobody():
    """After Ctrl-Z and fg, or in a container that was paused, both neighbours had been silent for
    as long as the job was stopped."""
    silent = Silent()
    silent.check(1.0)
    silent.now_s += 10 * PATIENCE_S
    silent.liveness.check(STEP)
    assert silent.dialled == []
    silent.now_s += 1.0
    silent.liveness.check(STEP)
    assert len(silent.dialled) == 2
