"""The store in which a job's processes find each other: each is heard in its attempt only."""

import os
from collections.abc import Callable
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
)


@pytest.fixture
def meet(tmp_path) -> Callable[..., Rendezvous]:
    """Another process of the job comes to the meeting point, in this attempt of the launcher's."""

    def come(*, attempt: int = 0) -> Rendezvous:
        return Rendezvous(FileStore(str(tmp_path / "store"), -1), attempt=attempt)

    return come


@pytest.mark.parametrize("said", [JOB, Announcement(no_job=0), Announcement(no_job=2)])
def test_announcement_is_heard_by_every_worker(meet, said):
    meet().announce(said)
    assert [meet().await_announcement() for _ in range(2)] == [said, said]


def test_coordinator_recalls_what_one_before_it_announced(meet):
    assert meet().recall_announcement() is None
    meet().announce(JOB)
    assert meet().recall_announcement() == JOB


def test_announcement_made_again_counts(meet):
    meet().announce(JOB)
    meet().announce(Announcement(no_job=2))
    assert meet().await_announcement().no_job == 2


def test_waits_have_a_bound():
    # A FileStore waits in whole seconds.
    alone = Rendezvous(HashStore(), attempt=0, timeout_s=0.002)
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
    now.announce(Announcement(no_job=0))
    assert before.recall_announcement() == JOB


def test_run_directory_is_recalled_by_later_attempts_only(meet):
    assert meet(attempt=1).recall_run_dir() is None
    meet(attempt=0).remember_run_dir("/runs/1")
    assert [meet(attempt=n).recall_run_dir() for n in range(3)] == [None, "/runs/1", "/runs/1"]


def test_processes_meet_in_the_keepers_memory():
    memory = os.memfd_create("test-rendezvous")
    meeting = Meeting(file=f"/proc/{os.getpid()}/fd/{memory}", keeper_pid=os.getpid())
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
    meeting = Meeting(file=None, keeper_pid=os.getpid())
    coordinator, worker = (
        open_rendezvous(meeting, timeout_s=20.0, is_coordinator=first) for first in (True, False)
    )
    coordinator.announce(JOB)
    assert worker.await_announcement() == JOB  # it may still be on its way to the store
    assert worker.recall_announcement() == JOB
    assert (coordinator.attempt, worker.attempt) == (2, 2)
