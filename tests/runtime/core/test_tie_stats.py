"""How old the ties were that a worker used."""

from runtime.core.plan import Stream
from runtime.core.tie_stats import TieStats


def test_copy_does_not_change_with_the_first():
    tie_stats = TieStats()
    for staleness in (1, 1, -2):
        tie_stats.note(Stream.TIE_UP, staleness)
    tie_stats.stale = 5
    copy = tie_stats.copy()
    tie_stats.note(Stream.TIE_UP, 1)
    tie_stats.stale += 1
    assert (copy.stale, copy.staleness[Stream.TIE_UP]) == (5, {1: 2, -2: 1})
    assert tie_stats.latest == 1


def test_rows_hold_all_but_what_was_latest():
    tie_stats = TieStats(stale=2)
    tie_stats.note(Stream.TIE_DOWN, 3)
    assert tie_stats.as_rows() == [[-1, 2, 0], [1, 3, 1]]
    assert TieStats.from_rows([]) == TieStats()
