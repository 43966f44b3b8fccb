"""An address that does not answer: told after a while, an error after all patience."""

import math

import pytest

from runtime.links.link import Unreachable
from runtime.worker.reach import TOLD_AFTER_S, Reach

THERE = "tcp://10.0.0.7:4455"


class Watched:
    def __init__(self, timeout_s: float = 60.0, *, was_reached: bool = False) -> None:
        self.told: list[str] = []
        self.reach = Reach(
            "worker 1",
            "worker 0",
            self.told.append,
            timeout_s=timeout_s,
            was_reached=was_reached,
        )
        self.now_s = 100.0

    def check(self, unreached: str | None, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            self.reach.check(unreached, self.now_s)


def test_both_workers_and_the_address_are_named_once():
    watched = Watched()
    watched.check(THERE, int(TOLD_AFTER_S))
    assert watched.told == []
    watched.check(THERE, 20)
    (told,) = watched.told
    assert told.startswith("worker 1 (host ")
    assert f"does not reach worker 0 at {THERE}, for 6 s now" in told


def test_connection_ends_the_wait():
    watched = Watched()
    for _ in range(10):
        watched.check(THERE, int(TOLD_AFTER_S))
        watched.check(None)
    assert watched.told == []


@pytest.mark.parametrize("was_reached", [True, False])
def test_what_was_reached_once_is_waited_for(was_reached):
    """Its process may take minutes to restart: data are loaded anew. It ended the job."""
    watched = Watched(was_reached=was_reached)
    if not was_reached:
        watched.check(None)
    watched.check(THERE, 1000)
    (told,) = watched.told
    assert "firewall" not in told


def test_own_absence_is_forgiven():
    watched = Watched()
    watched.check(THERE, 5)
    watched.now_s += 1000.0
    watched.reach.forgive()
    watched.check(THERE, 5)
    assert watched.told == []


def test_all_patience_ends_in_an_error_with_the_same_facts():
    watched = Watched()
    watched.check(THERE, 60)
    with pytest.raises(Unreachable, match=f"worker 1 .* worker 0 at {THERE}, for 61 s"):
        watched.check(THERE, 2)


def test_coordinator_is_waited_for_without_end():
    watched = Watched(math.inf)
    watched.check(THERE, 100_000)
    assert len(watched.told) == 1
