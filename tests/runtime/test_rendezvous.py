"""The store in which a job's processes find each other: each is heard in its attempt only."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from runtime.membership.cards import Board, Card
from runtime.program import Meeting, Member, StoreAddress
from runtime.rendezvous import Announcement, Place, Rendezvous, RendezvousError, open_rendezvous
from runtime.testing.shelf import Shelf

JOB = Announcement(
    job_text='{"steps": 12}',
    run_id="0123456789abcdef",
    run_dir="/runs/1",
    coordinator="ipc://@coordinator",
    resume="/runs/1/checkpoints/00000008-01234567",
    resume_step=8,
    recut=True,
    nonces=("keeper",),
)
SECRET = b"the job's secret"
NONE = Announcement(no_job=0, nonces=("keeper",))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def meet(shelf) -> Callable[..., Rendezvous]:
    """Another process of the job comes to the meeting point."""

    def come(*, secret: bytes = SECRET, run: Announcement | None = JOB, **facts) -> Rendezvous:
        facts = {"nonce": "keeper", "timeout_s": 20.0} | facts
        found = Rendezvous(shelf, secret=secret, **facts)
        if run is not None:
            found._begin(run)  # as if it had heard of it
        return found

    return come


@pytest.mark.parametrize("said", [JOB, NONE, replace(NONE, no_job=2)])
def test_announcement_is_heard_by_every_worker(meet, said):
    meet().announce(said)
    assert [meet().await_announcement() for _ in range(2)] == [said, said]


def test_coordinator_recalls_what_one_before_it_announced(meet):
    assert meet().recall_announcement() is None
    meet().announce(JOB)
    assert meet().recall_announcement() == JOB


def test_announcement_made_again_counts(meet):
    meet().announce(JOB)
    meet().announce(replace(NONE, no_job=2))
    assert meet().await_announcement().no_job == 2


def test_waits_have_a_bound(shelf):
    alone = Rendezvous(shelf, secret=SECRET, timeout_s=0.002)
    alone._begin(JOB)
    with pytest.raises(RendezvousError, match="nothing of 'job' from the other processes in 0 s"):
        alone.await_announcement()
    with pytest.raises(RendezvousError, match="nothing of '0123456789abcdef/edge/2'"):
        alone.await_edge(2)


def test_edge_is_found_without_waiting(meet):
    assert meet().find_edge(0) is None
    meet().publish_edge(0, "ipc://@edge-0")
    assert meet().find_edge(0) == "ipc://@edge-0"
    assert meet().await_edge(0) == "ipc://@edge-0"
    assert meet().find_edge(1) is None


def test_edge_that_moves_is_found_at_its_new_address(meet):
    upper = meet()
    for address in ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"):
        meet().publish_edge(3, address)
        assert upper.find_edge(3) == address


def test_job_is_finished_when_it_is_marked(meet):
    worker = meet()
    assert not worker.is_finished()
    meet().mark_finished()
    assert worker.is_finished()


def test_attempts_are_told_apart_by_the_nonce_of_rank_0(meet):
    """The store outlives the processes: what the attempt before has left there is no news."""
    before, now = meet(run=None), meet(run=None, nonce="keeper again")
    before.announce(JOB)
    before.publish_edge(0, "ipc://@edge-0")
    before.mark_finished()
    assert now.recall_announcement() is None
    assert not now.is_finished()
    now.announce(replace(JOB, run_id="fedcba9876543210"))
    assert now.find_edge(0) is None
    assert not now.is_finished()
    assert before.recall_announcement() == JOB


def test_run_directory_is_recalled_by_later_attempts_of_the_launcher(meet):
    assert meet(launcher="agent 1").recall_run_dir() is None
    meet(launcher="agent 1").remember_run_dir("/runs/1")
    assert meet(launcher="agent 1", nonce="again").recall_run_dir() == "/runs/1"
    assert meet(launcher="agent 2").recall_run_dir() is None


def test_run_directory_is_not_recalled_if_launchers_can_not_be_told_apart(meet):
    """A job without torchrun got the directory of another one that had the same port."""
    meet().remember_run_dir("/runs/1")
    assert meet(nonce="again").recall_run_dir() is None


# A store that comes and goes --------------------------------------------------------------------


def test_what_is_said_is_said_when_the_store_is_back(meet, shelf):
    shelf.calls_away = 3
    meet().publish_edge(0, "ipc://@edge-0")
    assert meet().find_edge(0) == "ipc://@edge-0"


def test_what_was_said_is_said_again_while_this_process_waits(meet, shelf):
    """The registrar that hosted the store was killed while a job began, and all waited on."""
    upper, lower = meet(), meet()
    lower.publish_edge(0, "ipc://@edge-0")
    shelf.values.clear()
    waiting = threading.Thread(target=lower.await_place, args=(1,))
    waiting.start()
    assert upper.await_edge(0) == "ipc://@edge-0"
    upper.publish_place(1, Place(host="here", memory=""))
    waiting.join()


def test_what_is_said_in_vain_ends_the_wait(meet, shelf):
    shelf.calls_away = 10**6
    with pytest.raises(RendezvousError, match="nothing of"):
        meet(timeout_s=0.05).publish_edge(0, "ipc://@edge-0")


def test_store_that_is_away_leaves_what_is_known(meet, shelf):
    worker = meet()
    meet().publish_edge(0, "ipc://@edge-0")
    assert worker.find_edge(0) == "ipc://@edge-0"
    shelf.calls_away = 2
    assert worker.find_edge(0) == "ipc://@edge-0"
    assert worker.find_edge(1) is None


# What strangers write ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [b"junk", b"\xff\xfe", b"", b"0" * 64 + b' {"job_text": "theirs"}', "another secret's"],
)
def test_what_is_not_sealed_by_the_job_is_as_good_as_not_there(meet, shelf, forged):
    if isinstance(forged, str):
        meet(secret=b"a stranger's").announce(JOB)
    else:
        shelf.put("loco/keeper/job", forged)
    worker = meet(timeout_s=0.3)
    assert worker.recall_announcement() is None
    with pytest.raises(RendezvousError, match=r"not sealed by this job's secret.*--secret-file"):
        worker.await_announcement()
    meet().announce(JOB)
    assert worker.await_announcement() == JOB


def test_sealed_value_counts_under_its_own_key_alone(meet, shelf):
    meet().publish_edge(0, "tcp://127.0.0.1:1")
    run, other = f"loco/{JOB.run_id}", "fedcba9876543210"
    sealed = shelf.values[f"{run}/edge/0"]
    for key in (f"{run}/edge/1", f"{run}/finished", f"loco/{other}/edge/0"):
        shelf.put(key, sealed)
    assert meet().find_edge(1) is None
    assert not meet().is_finished()
    assert meet(run=replace(JOB, run_id=other)).find_edge(0) is None


def test_announcement_of_an_earlier_job_is_not_for_this_one(meet):
    """It is sealed by the same secret, a user's own, but for keepers that are no more."""
    meet(nonce="earlier").announce(JOB)
    assert meet().recall_announcement() is None


def test_values_of_an_earlier_run_do_not_count(meet):
    earlier = meet(run=replace(JOB, run_id="fedcba9876543210"))
    earlier.mark_finished()
    earlier.publish_edge(0, "tcp://127.0.0.1:1")
    assert not meet().is_finished()
    assert meet().find_edge(0) is None


def test_what_was_found_once_outlives_what_is_written_over_it(meet, shelf):
    meet().announce(JOB)
    meet().publish_edge(0, "tcp://127.0.0.1:1")
    before = meet()
    assert before.await_announcement() == JOB
    assert before.await_edge(0) == "tcp://127.0.0.1:1"
    for key in ("keeper/job", f"{JOB.run_id}/edge/0"):
        shelf.put(f"loco/{key}", b"junk")
    after = meet(known=before.known, timeout_s=0.3)
    assert after.await_announcement() == JOB
    assert after.await_edge(0) == "tcp://127.0.0.1:1"
    with pytest.raises(RendezvousError):
        meet(timeout_s=0.3).await_announcement()


# The ranks of a launcher -------------------------------------------------------------------------


@pytest.fixture
def rank(meet) -> Callable[..., Rendezvous]:
    """A process of one of two ranks."""

    def come(number: int, **facts) -> Rendezvous:
        facts = {"nonce": f"keeper {number}", "timeout_s": 0.3, "num_ranks": 2} | facts
        return meet(**facts)

    return come


def say_here(rendezvous: Rendezvous, number: int, *, heard: str = "keeper 0") -> None:
    rendezvous.publish_card(number, Card(nonce=f"keeper {number}", heard=heard))


def test_job_is_announced_when_all_ranks_are_there(rank):
    coordinator = rank(0)
    say_here(coordinator, 0)
    with pytest.raises(RendezvousError, match="nothing of 'card/1'"):
        coordinator.announce(JOB)
    say_here(rank(1), 1)
    coordinator.announce(JOB)
    assert rank(1).await_announcement().nonces == ("keeper 0", "keeper 1")


def test_card_of_an_earlier_attempt_is_not_waited_for_any_longer(rank):
    say_here(rank(0), 0)
    say_here(rank(1), 1, heard="another rank 0")
    with pytest.raises(RendezvousError):
        rank(0).await_cards()


def test_refusal_is_told_to_those_that_came(rank):
    say_here(rank(0), 0)
    rank(0).announce(NONE)
    assert rank(0).await_announcement().no_job == 0


def test_worker_finds_the_announcement_by_the_card_of_rank_0(rank):
    """That of the attempt before lies there until rank 0 has come again."""
    say_here(rank(0), 0)
    say_here(rank(1), 1)
    rank(0).announce(JOB)
    late = rank(1, nonce="keeper 1 again")
    assert late.recall_announcement() is None
    first = rank(0, nonce="keeper 0 again")
    first.publish_card(0, Card(nonce="keeper 0 again", heard="keeper 0 again"))
    late.publish_card(1, Card(nonce="keeper 1 again", heard="keeper 0 again"))
    first.announce(replace(JOB, run_id="fedcba9876543210"))
    assert late.await_announcement().run_id == "fedcba9876543210"


def test_rank_0_that_is_known_is_known_to_the_next_generation(rank, shelf):
    """A worker that was reborn while a stranger wrote junk waited for rank 0 to write again."""
    say_here(rank(0), 0)
    say_here(rank(1), 1)
    rank(0).announce(JOB)
    before = rank(1)
    assert before.await_announcement().run_id == JOB.run_id
    for key in list(shelf.values):
        shelf.put(key, b"junk")
    found = rank(1, known=before.known).recall_announcement()
    assert found is not None
    assert found.run_id == JOB.run_id


def test_board_is_read_by_all(rank):
    assert rank(1).read_board() is None
    board = Board(nonces=("keeper 0", "keeper 1"), stop=15, stop_by="rank 1")
    rank(0).publish_board(board)
    assert rank(1).read_board() == board
    assert rank(1, secret=b"a stranger's").read_board() is None


def test_wait_for_a_rank_0_of_another_secret_says_so(rank):
    say_here(rank(0, secret=b"a stranger's"), 0)
    with pytest.raises(RendezvousError, match=r"not sealed by this job's secret.*--secret-file"):
        rank(1).await_announcement()


# Where they meet --------------------------------------------------------------------------------


def test_processes_meet_in_the_keepers_memory():
    memory = os.memfd_create("test-rendezvous")
    address = StoreAddress(file=f"/proc/{os.getpid()}/fd/{memory}")
    meeting = Meeting(store=address, keeper_pid=os.getpid(), secret=SECRET, nonce="keeper")
    coordinator, worker = (open_rendezvous(meeting, timeout_s=20.0) for _ in range(2))
    coordinator.announce(JOB)
    assert worker.await_announcement() == JOB
    os.close(memory)


def test_processes_meet_in_the_launchers_store():
    theirs = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))
    address = StoreAddress(host="127.0.0.1", port=theirs.port, is_launchers=True)
    member = Member(rank=0, num_ranks=1, store=address, is_one_host=True)
    meeting = Meeting(
        store=address, keeper_pid=os.getpid(), secret=SECRET, nonce="keeper", member=member
    )
    coordinator, worker = (open_rendezvous(meeting, timeout_s=20.0) for _ in range(2))
    coordinator.publish_card(0, Card(nonce="keeper", heard="keeper"))
    coordinator.announce(JOB)
    assert worker.await_announcement() == JOB  # it may still be on its way to the store
    assert worker.recall_announcement() == JOB
