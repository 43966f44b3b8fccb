"""The account of a worker's steps."""

from runtime.core.plan import Stream
from runtime.core.tie_stats import Account


def test_a_copy_does_not_change_with_the_first():
    account = Account()
    for staleness in (1, 1, -2):
        account.note(Stream.TIE_UP, staleness)
    account.stale = 5
    copy = account.copy()
    account.note(Stream.TIE_UP, 1)
    account.stale += 1
    assert (copy.stale, copy.staleness[Stream.TIE_UP]) == (5, {1: 2, -2: 1})
    assert account.latest == 1


def test_rows_hold_all_but_what_was_latest():
    account = Account(stale=2)
    account.note(Stream.TIE_DOWN, 3)
    assert account.as_rows() == [[-1, 2, 0], [1, 3, 1]]
    assert Account.from_rows([]) == Account()
