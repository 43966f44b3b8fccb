"""What ranks say to each other through the store, and what each tells its keeper."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from runtime.membership.cards import PLACE_MARK, Places
from runtime.membership.registrar import (
    BEAT_S,
    FIRST_BEAT_S,
    FIRST_NOTICE_S,
    LEAVE_S,
    UNKNOWN_LEAVES_S,
    Registrar,
    why_unseen,
)
from runtime.membership.roll import ANEW_S
from runtime.program import Member, StoreAddress
from runtime.rendezvous import Announcement, Place, Rendezvous, RendezvousError
from runtime.testing.shelf import Shelf

SECRET = b"the job's secret"
JOB = Announcement(job_text="{}", run_id="0123456789abcdef", run_dir="/runs/1")


class Job:
    """Some ranks of one job, each with what its keeper was told."""

    def __init__(self, num_ranks: int) -> None:
        self.shelf = Shelf()
        self.now_s = 1000.0
        self.num_ranks = num_ranks
        self.told: list[dict[str, Any]] = [{} for _ in range(num_ranks)]
        self.notices: list[list[str]] = [[] for _ in range(num_ranks)]
        self.unseen: dict[int, str] = {}
        self.registrars: list[Registrar] = []
        for rank in range(num_ranks):
            self.come(rank, f"nonce {rank}")

    def rendezvous(self, nonce: str) -> Rendezvous:
        return Rendezvous(
            self.shelf, secret=SECRET, nonce=nonce, num_ranks=self.num_ranks, timeout_s=0.1
        )

    def come(self, rank: int, nonce: str) -> None:
        """A rank's registrar begins, in the place of one before it."""
        member = Member(
            rank=rank, num_ranks=self.num_ranks, store=StoreAddress(), is_one_host=False
        )
        registrar = Registrar(
            self.rendezvous(nonce),
            member,
            nonce=nonce,
            timeout_s=90.0,
            facts={"cores": rank},
            look=lambda places: self.unseen.get(rank, ""),
            say=self._hear(rank),
            clock=lambda: self.now_s,
        )
        self.registrars[rank : rank + 1] = [registrar]
        self.told[rank] = {}

    def _hear(self, rank: int) -> Callable[..., None]:
        def say(**facts: Any) -> None:
            self.notices[rank] += [facts.pop("notice")] if "notice" in facts else []
            self.told[rank] |= facts

        return say

    def turn(self, times: int = 1, *, but: tuple[int, ...] = ()) -> list[bool]:
        """All but some look so often, a second apart; whether each may leave."""
        for _ in range(times):
            self.now_s += BEAT_S
            leaves = [
                rank not in but and registrar.turn(self.now_s)
                for rank, registrar in enumerate(self.registrars)
            ]
        return leaves

    def announce(self) -> Rendezvous:
        """The coordinator announces the job."""
        rendezvous = self.rendezvous("nonce 0")
        rendezvous.announce(JOB)
        return rendezvous

    def over(self) -> list[str]:
        return [told.get("over", "") for told in self.told]


@pytest.fixture
def job() -> Job:
    return Job(3)


def test_coordinator_finds_the_ranks_and_their_facts(job):
    job.turn(2)
    cards = job.rendezvous("nonce 0").await_cards()
    assert [card.facts["cores"] for card in cards] == [0, 1, 2]
    job.announce()
    for rank in range(3):
        found = job.rendezvous(f"nonce {rank}").recall_announcement()
        assert found is not None
        assert found.nonces == ("nonce 0", "nonce 1", "nonce 2")


def test_looks_are_quick_until_the_job_is_announced(job):
    job.turn(3)
    assert {registrar.wait_s for registrar in job.registrars} == {FIRST_BEAT_S}
    job.announce()
    job.turn(2)
    assert {registrar.wait_s for registrar in job.registrars} == {BEAT_S}


def test_rank_that_does_not_come_is_told_of(job):
    job.turn(int(FIRST_NOTICE_S) + 1, but=(2,))
    (notice,) = job.notices[0]
    assert "waiting for rank 2 to start" in notice
    assert job.notices[1] == []


def test_stop_at_one_rank_is_one_at_all(job):
    job.turn(2)
    job.registrars[2].order(stop=15)
    job.turn(3)
    assert [told.get("stop") for told in job.told] == [15, 15, 15]
    assert job.told[1]["stop_by"].startswith("rank 2 (host ")


def test_failure_of_one_rank_ends_all_within_three_beats(job):
    job.turn(2)
    job.registrars[1].order(presence="failed", why="worker 1 can't go on")
    job.turn(3)
    assert all("has ended: worker 1 can't go on" in over for over in job.over())


def test_trouble_of_one_rank_is_told_by_rank_0(job):
    job.turn(2)
    troubles = [f"worker 2 does not reach {whom}" for whom in ("worker 1", "the coordinator")]
    for trouble in troubles:
        job.registrars[2].order(trouble=trouble)
    job.turn(3)
    assert job.notices == [troubles, [], []]


def test_rank_that_can_not_take_part_stays_until_rank_0_can_read_that(job):
    job.registrars[2].order(presence="failed", why="bind 'x' is no address of this host")
    for rank in (1, 2):
        assert not job.registrars[rank].turn(job.now_s)
    job.turn()
    assert job.registrars[2].turn(job.now_s)
    job.turn(2, but=(2,))
    assert all("has ended: bind 'x' is no address" in over for over in job.over()[:2])


def test_rank_that_came_late_gets_the_job_announced_anew(job):
    """Its keeper was started again before its worker had taken up the run."""
    job.turn(2)
    job.announce()
    job.turn()
    job.come(2, "another")
    job.turn(3)
    found = job.rendezvous("another").recall_announcement()
    assert found is not None
    assert found.run_id == JOB.run_id
    assert job.over() == ["", "", ""]


def test_rank_started_again_in_the_run_ends_this_attempt(job):
    """Its memory is lost, and all have to begin at the newest checkpoint."""
    job.turn(2)
    run = job.announce()
    run.publish_place(2, Place(host="host2", memory="", nonce="nonce 2"))
    job.turn()
    job.come(2, "another")
    job.turn(int(ANEW_S) + 3)
    assert "was started anew, so all ranks have to be" in job.over()[0]
    assert "was started anew, so all ranks have to be" in job.over()[1]


def test_next_attempt_does_not_hear_the_one_before(job):
    """Under torchrun the store outlives the ranks."""
    job.turn(2)
    job.announce()
    job.registrars[1].order(presence="failed", why="worker 1 can't go on", stop=15)
    job.turn(3)
    job.come(0, "0 again")
    job.turn(2)
    for rank in (1, 2):
        job.come(rank, f"{rank} again")
    job.turn(3)
    assert job.over() == ["", "", ""]
    assert not any("stop" in told for told in job.told)
    assert job.rendezvous("1 again").recall_announcement() is None
    assert [card.nonce for card in job.rendezvous("0 again").await_cards()] == [
        "0 again",
        "1 again",
        "2 again",
    ]


def test_rank_may_leave_when_it_was_heard(job):
    job.turn(2)
    job.registrars[1].order(presence="left")
    assert job.turn() == [False, True, False]


def test_rank_0_stays_until_the_others_have_left(job):
    """It may host the store: one that left at once took the others' news with it."""
    job.turn(2)
    job.registrars[0].order(presence="left")
    assert job.turn() == [False, False, False]
    job.turn(2)
    assert all(told.get("has_left") for told in job.told[1:])
    for rank in (1, 2):
        job.registrars[rank].order(presence="left")
    job.turn()
    assert job.turn()[0]


def test_leaving_has_a_bound(job):
    job.turn(2)
    job.registrars[0].order(presence="left")
    job.registrars[1].order(presence="left")
    job.shelf.calls_away = math.inf
    assert not any(job.turn(int(LEAVE_S) - 1, but=(2,)))
    assert job.turn(2, but=(2,)) == [True, True, False]


def test_rank_that_never_reached_the_store_leaves_soon(job):
    job.shelf.calls_away = math.inf
    job.registrars[2].order(presence="left")
    assert not job.registrars[2].turn(job.now_s)
    job.now_s += UNKNOWN_LEAVES_S + 0.1
    assert job.registrars[2].turn(job.now_s)


def test_store_that_was_away_for_a_minute_is_no_ones_end(job):
    job.turn(2)
    job.shelf.calls_away = math.inf
    job.turn(60)
    job.shelf.calls_away = 0
    job.turn(5)
    assert job.over() == ["", "", ""]
    assert job.notices == [[], [], []]


def test_store_that_is_not_reached_at_first_is_told_by_each_host(job):
    """The other host's console had torch's stack traces, and no word of ours."""
    job.shelf.calls_away = math.inf
    job.turn(int(FIRST_NOTICE_S) + 1)
    (notice,) = job.notices[1]
    assert notice.startswith("rank 1 (host ")
    assert "does not reach the job's store at MASTER_ADDR" in notice
    job.turn(5)
    assert len(job.notices[1]) == 1


def test_store_that_was_made_anew_is_filled_again(job):
    """The registrar that hosts it was killed."""
    job.turn(2)
    job.shelf.values.clear()
    job.turn(2)
    assert len(job.rendezvous("nonce 0").await_cards()) == 3
    assert job.over() == ["", "", ""]


def test_every_rank_looks_for_the_checkpoint_directory(job):
    """Where one did not see it, no checkpoint was ever complete, and nothing said so."""
    job.turn(2)
    job.unseen[2] = "/disk/run is not the same there"
    rank_0 = job.rendezvous("nonce 0")
    rank_0.publish_places(Places(run_id=JOB.run_id, checkpoint_dir="/disk/run"))
    with pytest.raises(RendezvousError):
        rank_0.await_answers(JOB.run_id)
    job.turn(2)
    cards = rank_0.await_answers(JOB.run_id)
    assert [card.unseen for card in cards] == ["", "", "/disk/run is not the same there"]


@pytest.mark.parametrize("own", [None, "own", "elsewhere"])
def test_checkpoint_directory_is_seen_by_its_mark(tmp_path, own):
    places = Places(run_id="0123", checkpoint_dir=str(tmp_path / "theirs"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "own").symlink_to(tmp_path / "theirs")
    given = None if own is None else str(tmp_path / own)
    mark = tmp_path / "theirs" / PLACE_MARK
    assert why_unseen(given, places).endswith("is not the same there")
    mark.write_text("0122")  # of a run that was killed when it asked
    assert why_unseen(given, places).endswith("is not the same there")
    mark.write_text("0123")
    assert bool(why_unseen(given, places)) is (own == "elsewhere")


def test_keeper_is_told_each_thing_once(job):
    job.turn(2)
    job.registrars[1].order(stop=15)
    job.turn(3)
    job.told[0].clear()
    job.turn(3)
    assert "stop" not in job.told[0]
