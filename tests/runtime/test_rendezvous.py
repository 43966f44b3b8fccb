"""The store in which a job's processes find each other: each is heard in its attempt only."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from torch.distributed import FileStore, HashStore, TCPStore

from runtime.program import Meeting
from runtime.rendezvous import Announcement, Rendezvous, RendezvousError, open_rendezvous

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
def meet(tmp_path) -> Callable[..., Rendezvous]:
    """Another process of the job comes to the meeting point, in this attempt of the launcher's."""

    def come(
        *, attempt: int = 0, secret: bytes = SECRET, run: Announcement | None = JOB, **facts
    ) -> Rendezvous:
        store = FileStore(str(tmp_path / "store"), -1)
        facts = {"nonce": "keeper", "timeout_s": 20.0} | facts
        found = Rendezvous(store, secret=secret, attempt=attempt, **facts)
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


def test_waits_have_a_bound():
    # A FileStore waits in whole seconds.
    alone = Rendezvous(HashStore(), secret=SECRET, timeout_s=0.002)
    alone._begin(JOB)
    with pytest.raises(RendezvousError, match="nothing of 'job' from the other processes in 0 s"):
        alone.await_announcement()
    with pytest.raises(RendezvousError, match="nothing of 'edge/2'"):
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
    assert not worker.is_finished
    meet().mark_finished()
    assert worker.is_finished


def test_attempts_of_the_launcher_are_told_apart(meet):
    """The store outlives the processes: what the attempt before has left there is no news."""
    before, now = meet(attempt=0), meet(attempt=1)
    before.announce(JOB)
    before.publish_edge(0, "ipc://@edge-0")
    before.mark_finished()
    assert now.recall_announcement() is None
    assert now.find_edge(0) is None
    assert not now.is_finished
    now.announce(NONE)
    assert before.recall_announcement() == JOB


def test_run_directory_is_recalled_by_later_attempts_only(meet):
    assert meet(attempt=1).recall_run_dir() is None
    meet(attempt=0).remember_run_dir("/runs/1")
    assert [meet(attempt=n).recall_run_dir() for n in range(3)] == [None, "/runs/1", "/runs/1"]


# What strangers write ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [b"junk", b"\xff\xfe", b"", b"0" * 64 + b' {"job_text": "theirs"}', "another secret's"],
)
def test_what_is_not_sealed_by_the_job_is_as_good_as_not_there(meet, tmp_path, forged):
    store = FileStore(str(tmp_path / "store"), -1)
    if isinstance(forged, str):
        meet(secret=b"a stranger's").announce(JOB)
    else:
        store.set("loco/0/job", forged)
    worker = meet(timeout_s=0.3)
    assert worker.recall_announcement() is None
    with pytest.raises(RendezvousError, match=r"not sealed by this job's secret.*--secret-file"):
        worker.await_announcement()
    meet().announce(JOB)
    assert worker.await_announcement() == JOB


def test_sealed_value_counts_under_its_own_key_alone(meet, tmp_path):
    meet().publish_edge(0, "tcp://127.0.0.1:1")
    store = FileStore(str(tmp_path / "store"), -1)
    store.set("loco/0/edge/1", store.get("loco/0/edge/0"))
    store.set("loco/0/finished", store.get("loco/0/edge/0"))
    store.set("loco/1/edge/0", store.get("loco/0/edge/0"))
    assert meet().find_edge(1) is None
    assert not meet().is_finished
    assert meet(attempt=1).find_edge(0) is None


def test_announcement_of_an_earlier_job_is_not_for_this_one(meet):
    """It is sealed by the same secret, a user's own, but for keepers that are no more."""
    meet(nonce="earlier").announce(JOB)
    assert meet().recall_announcement() is None


def test_values_of_an_earlier_run_do_not_count(meet):
    earlier = meet(run=replace(JOB, run_id="fedcba9876543210"))
    earlier.mark_finished()
    earlier.publish_edge(0, "tcp://127.0.0.1:1")
    assert not meet().is_finished
    assert meet().find_edge(0) is None


def test_what_was_found_once_outlives_what_is_written_over_it(meet, tmp_path):
    meet().announce(JOB)
    meet().publish_edge(0, "tcp://127.0.0.1:1")
    before = meet()
    assert before.await_announcement() == JOB
    assert before.await_edge(0) == "tcp://127.0.0.1:1"
    store = FileStore(str(tmp_path / "store"), -1)
    for key in ("job", "edge/0"):
        store.set(f"loco/0/{key}", "junk")
    after = meet(known=before.known, timeout_s=0.3)
    assert after.await_announcement() == JOB
    assert after.await_edge(0) == "tcp://127.0.0.1:1"
    with pytest.raises(RendezvousError):
        meet(timeout_s=0.3).await_announcement()


def test_job_is_announced_to_the_keepers_that_are_there(meet):
    first, second = (meet(nonce=f"keeper {rank}") for rank in range(2))
    coordinator = meet(nonce="keeper 0", num_ranks=2, timeout_s=0.3)
    first.publish_nonce(0)
    with pytest.raises(RendezvousError, match="nothing of 'nonce/1'"):
        coordinator.announce(JOB)
    second.publish_nonce(1)
    coordinator.announce(JOB)
    assert second.await_announcement().nonces == ("keeper 0", "keeper 1")


def test_refusal_is_told_to_those_that_came(meet):
    first = meet(nonce="keeper 0")
    first.publish_nonce(0)
    meet(nonce="keeper 0", num_ranks=2, timeout_s=0.3).announce(NONE)
    assert first.await_announcement().no_job == 0


def test_run_directory_of_another_launcher_is_not_recalled(meet):
    meet(launcher="agent 1").remember_run_dir("/runs/1")
    assert meet(attempt=1, launcher="agent 1").recall_run_dir() == "/runs/1"
    assert meet(attempt=1, launcher="agent 2").recall_run_dir() is None


# Where they meet --------------------------------------------------------------------------------


def test_processes_meet_in_the_keepers_memory():
    memory = os.memfd_create("test-rendezvous")
    file = f"/proc/{os.getpid()}/fd/{memory}"
    meeting = Meeting(file=file, keeper_pid=os.getpid(), secret=SECRET, nonce="keeper")
    coordinator, worker = (
        open_rendezvous(meeting, timeout_s=20.0, is_coordinator=first) for first in (True, False)
    )
    coordinator.announce(JOB)
    assert worker.await_announcement() == JOB
    assert worker.attempt == 0
    os.close(memory)


def test_processes_meet_in_the_launchers_store(monkeypatch):
    theirs = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(theirs.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "2",
    }.items():
        monkeypatch.setenv(name, value)
    meeting = Meeting(file=None, keeper_pid=os.getpid(), secret=SECRET, nonce="keeper", num_ranks=1)
    coordinator, worker = (
        open_rendezvous(meeting, timeout_s=20.0, is_coordinator=first) for first in (True, False)
    )
    worker.publish_nonce(0)
    coordinator.announce(JOB)
    assert worker.await_announcement() == JOB  # it may still be on its way to the store
    assert worker.recall_announcement() == JOB
    assert (coordinator.attempt, worker.attempt) == (2, 2)
