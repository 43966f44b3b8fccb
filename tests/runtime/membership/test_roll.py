"""Who is there, who is lost, and when a job can't go on: by what lies in the store, and when."""

from dataclasses import replace

import pytest

from runtime.membership.cards import Board, Card
from runtime.membership.roll import ABSENCE_S, ANEW_S, Count, Follower, Roll

TIMEOUT_S = 90.0
NOBODY = ("", "", "")


class Ranks:
    """Three ranks on three hosts, and rank 0's roll, looked at each second."""

    def __init__(self) -> None:
        self.roll = Roll("nonce 0", 3, timeout_s=TIMEOUT_S)
        self.cards: list[Card | None] = [
            Card(nonce=f"nonce {rank}", heard="nonce 0", host=f"host{rank}") for rank in range(3)
        ]
        self.joined: tuple[str, ...] = NOBODY
        self.now_s = 1000.0
        self.silent: set[int] = set()

    def change(self, rank: int, **changes) -> None:
        card = self.cards[rank]
        assert card is not None
        self.cards[rank] = replace(card, **{"beat": card.beat + 1, **changes})

    def watch(self, seconds: float = 1.0, *, reads: bool = True) -> Count:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 1.0
            for rank, card in enumerate(self.cards):
                if card is not None and rank not in self.silent:
                    self.change(rank)
            self.roll.take(self.cards if reads else None, self.now_s, joined=self.joined)
            count = self.roll.count(has_left=False)
        return count


@pytest.fixture
def ranks() -> Ranks:
    return Ranks()


def test_ranks_that_are_there_are_listed(ranks):
    count = ranks.watch()
    assert count.board == Board(nonces=("nonce 0", "nonce 1", "nonce 2"))
    assert count.missing == ()


def test_rank_without_a_card_is_missing_and_so_is_one_of_an_earlier_attempt(ranks):
    """What lies in the store may be of an attempt before this one: its end is not this one's."""
    ranks.cards[1] = None
    ranks.change(2, heard="an earlier rank 0", presence="failed", why="a bug", stop=15)
    count = ranks.watch()
    assert count.missing == (1, 2)
    assert count.board == Board(nonces=("nonce 0", "", ""))


@pytest.mark.parametrize(("silent_s", "is_lost"), [(TIMEOUT_S - 2, False), (TIMEOUT_S + 2, True)])
def test_rank_is_lost_after_the_timeout(ranks, silent_s, is_lost):
    ranks.watch()
    ranks.silent = {2}
    over = ranks.watch(silent_s).board.over
    assert ("nothing was heard of rank 2 (host host2) for 91 s" in over) is is_lost


def test_all_ranks_of_a_lost_host_are_named_at_once(ranks):
    ranks.watch()
    ranks.silent = {1}
    ranks.watch(1.0)
    ranks.silent = {1, 2}
    assert "rank 1 (host host1), rank 2 (host host2)" in ranks.watch(TIMEOUT_S + 2).board.over


def test_card_that_is_written_again_does_not_hide_a_lost_rank(ranks):
    """A stranger can write what he has read, and each such card was news."""
    ranks.watch()
    ranks.silent = {1, 2}
    old, last = ranks.cards[2], replace(ranks.cards[2], beat=ranks.cards[2].beat + 1)
    for second in range(int(TIMEOUT_S) + 2):
        ranks.cards[2] = old if second % 2 else last
        over = ranks.watch().board.over
    assert "rank 2 (host host2)" in over


def test_rank_that_has_left_is_not_lost(ranks):
    ranks.watch()
    ranks.change(2, presence="left")
    ranks.silent = {2}
    assert ranks.watch(2 * TIMEOUT_S).board.over == ""


def test_failure_of_a_rank_ends_the_job_with_its_reason(ranks):
    ranks.change(1, presence="failed", why="worker 1 can't go on")
    assert ranks.watch().board.over == "rank 1 (host host1) has ended: worker 1 can't go on"


def test_first_reason_stays(ranks):
    ranks.change(1, presence="failed", why="worker 1 can't go on")
    ranks.watch()
    ranks.change(2, presence="failed", why="exit code 1")
    assert "worker 1" in ranks.watch().board.over


def test_rank_that_is_started_anew_may_join_late_but_not_again(ranks):
    ranks.watch()
    ranks.change(1, nonce="another")
    count = ranks.watch()
    assert count.board.nonces[1] == "another"
    assert count.board.over == ""
    ranks.joined = ("", "another", "")
    ranks.change(1, nonce="a third")
    assert ranks.watch().board.over == ""
    assert "rank 1 (host host1) was started anew" in ranks.watch(ANEW_S + 1).board.over


def test_rank_of_another_job_in_ones_place_ends_nothing(ranks):
    """Two jobs of a user were started with one port: the second one ended the first."""
    ranks.joined = ("nonce 0", "nonce 1", "nonce 2")
    ranks.watch()
    own = ranks.cards[1]
    for second in range(30):
        ours = replace(own, beat=own.beat + second)
        ranks.cards[1] = ours if second % 3 else Card(nonce="theirs", heard="nonce 0")
        board = ranks.watch().board
    assert board.over == ""
    assert board.nonces[1] == "nonce 1"


def test_stop_that_one_rank_wants_is_told_to_all(ranks):
    ranks.change(2, stop=15)
    board = ranks.watch().board
    assert (board.stop, board.stop_by) == (15, "rank 2 (host host2)")
    ranks.change(1, stop=2)
    assert ranks.watch().board.stop == 15


def test_trouble_is_told_once(ranks):
    ranks.change(1, troubles=("worker 1 does not reach worker 0",), num_troubles=1)
    assert ranks.watch().troubles == ("worker 1 does not reach worker 0",)
    assert ranks.watch().troubles == ()
    ranks.change(1, troubles=("worker 1 does not reach worker 0", "something else"), num_troubles=2)
    assert ranks.watch().troubles == ("something else",)


def test_trouble_that_comes_again_is_told_again(ranks):
    again = "worker 1 does not reach worker 0"
    ranks.change(1, troubles=(again,), num_troubles=1)
    ranks.watch()
    ranks.change(1, troubles=(again, again), num_troubles=2)
    assert ranks.watch().troubles == (again,)


def test_trouble_after_a_registrars_restart_is_told(ranks):
    """The count begins anew, above any before it."""
    ranks.change(1, troubles=("the first",), num_troubles=1001)
    ranks.watch()
    ranks.change(1, troubles=("another",), num_troubles=5001)
    assert ranks.watch().troubles == ("another",)


def test_troubles_that_a_card_has_no_room_for_are_passed_over(ranks):
    ranks.change(1, troubles=("the last", "the very last"), num_troubles=5)
    assert ranks.watch().troubles == ("the last", "the very last")


def test_store_that_is_away_for_long_is_lost_and_no_rank_with_it(ranks):
    ranks.watch()
    assert ranks.watch(TIMEOUT_S - 2, reads=False).board.over == ""
    assert ranks.watch().board.over == ""
    assert "the job's store was not reached for 91 s" in (
        ranks.watch(TIMEOUT_S + 1, reads=False).board.over
    )


def test_nobody_is_lost_while_this_process_was_stopped(ranks):
    """A suspended job, or a paused container."""
    ranks.watch()
    ranks.silent = {1, 2}
    ranks.now_s += 100 * TIMEOUT_S
    assert ranks.watch(ABSENCE_S).board.over == ""


def test_others_have_left_when_each_is_done_or_failed(ranks):
    ranks.watch()
    assert not ranks.roll.have_left
    ranks.change(1, presence="left")
    ranks.change(2, presence="failed")
    ranks.watch()
    assert ranks.roll.have_left


def test_rank_that_comes_late_is_to_hear_that_there_is_no_job(ranks):
    late, ranks.cards[1] = ranks.cards[1], None
    ranks.change(2, presence="left")
    ranks.watch()
    assert ranks.roll.have_left
    ranks.change(2, presence="failed", why="it was refused")
    ranks.watch()
    assert not ranks.roll.have_left
    ranks.cards[1] = replace(late, presence="left")
    ranks.watch()
    assert ranks.roll.have_left


# Other ranks ------------------------------------------------------------------------------------

BOARD = Board(nonces=("nonce 0", "nonce 1"))


@pytest.fixture
def follower() -> Follower:
    return Follower("nonce 1", 1, timeout_s=TIMEOUT_S)


def follow(follower: Follower, board: Board | None, seconds: range) -> str:
    """Look each second; the board's beat counts up."""
    for second in seconds:
        beats = None if board is None else replace(board, beat=second)
        over = follower.take(beats, 1000.0 + second)
    return over


def test_board_that_does_not_list_this_rank_is_not_heeded(follower):
    for nonces in (("nonce 0", ""), ("nonce 0", "an earlier one"), ("nonce 0",)):
        assert follow(follower, Board(nonces=nonces, over="a bug", stop=15), range(3)) == ""
        assert follower.board is None


def test_why_the_job_is_over_is_heard(follower):
    assert follow(follower, replace(BOARD, over="rank 2 has ended"), range(1)) == "rank 2 has ended"


@pytest.mark.parametrize(("until", "is_lost"), [(88, False), (95, True)])
def test_rank_0_is_lost_after_the_timeout(follower, until, is_lost):
    """Whether the store has gone with it, or its board stays as it was."""
    follow(follower, BOARD, range(2))
    same = replace(BOARD, beat=1)
    for second in range(2, until):
        over = follower.take(same if second % 2 else None, 1000.0 + second)
    assert ("nothing was heard of rank 0 for" in over) is is_lost


def test_board_that_is_written_again_does_not_hide_that_rank_0_is_lost(follower):
    follow(follower, BOARD, range(2))
    for second in range(2, 95):
        over = follower.take(replace(BOARD, beat=second % 2), 1000.0 + second)
    assert "nothing was heard of rank 0 for" in over


def test_rank_0_may_be_late_to_come(follower):
    assert follow(follower, None, range(1000)) == ""


def test_rank_0_that_was_started_anew_has_another_job(follower):
    follow(follower, BOARD, range(2))
    again = Board(nonces=("another", ""))
    assert follow(follower, again, range(2, 4)) == ""
    assert "rank 0 was started anew" in follow(follower, again, range(4, 9))


def test_board_of_an_earlier_start_ends_nothing(follower):
    """A stranger had recorded it; it was taken for a new rank 0."""
    for second in range(60):
        old = Board(nonces=("old 0", "old 1"), beat=5)
        board = replace(BOARD, beat=second) if second % 3 else old
        assert follower.take(board, 1000.0 + second) == ""


def test_job_that_has_ended_well_is_not_lost(follower):
    follow(follower, replace(BOARD, has_left=True), range(2))
    assert follow(follower, None, range(2, 200)) == ""
