"""How a job begins: in a new directory, from the newest whole checkpoint, or not at all.

Long, since whatever may lie in a run directory or be done to it before a start has its test.
"""

import errno
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from torch.distributed import FileStore

import runtime.coordinator.start as module
from runtime.coordinator.reception import Reception
from runtime.coordinator.start import announce, recall
from runtime.membership.cards import Card
from runtime.program import Facts, Meeting, Program, Resumption, StoreAddress, Tell
from runtime.records.run_dir import RunDir
from runtime.rendezvous import Announcement, Rendezvous
from runtime.state.checkpoint import CheckpointWriter
from runtime.state.storage import LocalStorage
from runtime.store import SharedStore
from runtime.testing.slept import SleptConfig, load_slept_job

JOB = SleptConfig(
    workers=2,
    steps=12,
    step_s=0.0,
    forward_share=0.5,
    activation_bytes=64,
    tie_bytes=0,
    lag=1,
    window=2,
    link="zmq-ipc",
)


def config(**changes: Any) -> SleptConfig:
    return SleptConfig(**(vars(JOB) | changes))


def same(old_toml: str, step: int, new_text: str) -> Resumption:
    return Resumption(text=new_text)


class Place:
    """A run directory, its launchers' stores, and coordinators that come and go one by one."""

    def __init__(self, tmp_path: Path) -> None:
        self._tmp_path = tmp_path
        self.path = tmp_path / "run"
        self.checkpoint_dir: Path | None = None
        self.context = zmq.Context()
        self.reception: Reception | None = None
        self._meeting = self._meet("127.0.0.1")
        self._num_launches = 0
        self._num_begun = 0
        self.phases: list[str] = []  # of the beginnings so far
        self._run_dir: RunDir | None = None

    @property
    def rendezvous(self) -> Rendezvous:
        path = str(self._tmp_path / f"store-{self._num_launches}")
        return Rendezvous(
            SharedStore(lambda: FileStore(path, -1)),
            secret=b"secret",
            nonce=f"keeper {self._num_begun}",
            launcher="torchrun",
        )

    def listen_at(self, address: str) -> None:
        """Where sockets listen from now on."""
        self._meeting = self._meet(address)

    def _meet(self, address: str) -> Meeting:
        return Meeting(
            store=StoreAddress(),
            keeper_pid=1,
            secret=b"secret",
            directory=str(self._tmp_path),
            address=address,
        )

    def begin(
        self, *, restart: bool = False, job: dict[str, Any] | None = None, **program: Any
    ) -> Announcement:
        """Begin a job: by another launch of the command, or by a `restart` of the launcher."""
        self.leave()
        self._num_begun += 1
        self._num_launches += not restart
        resolve = config(**(job or {})).resolve
        settings = {"resolve": resolve, "run_dir": str(self.path), "resume": same}
        if self.checkpoint_dir is not None:
            settings["checkpoint_dir"] = str(self.checkpoint_dir)
        self._program = Program(
            load=load_slept_job,
            preload=(),
            name="loco",
            run_name="slept",
            started_t=0.0,
            **(settings | program),
        )
        announcement, self._run_dir, self.reception = announce(
            self._program, self.rendezvous, self._meeting, self._note_phase
        )
        return announcement

    def _note_phase(self, phase: str, *, takes_s: float = 0.0) -> None:
        self.phases.append(phase)

    def refusal(self, **begin: Any) -> str:
        """Why a job is refused, of which the workers have not heard, and which leaves nothing."""
        with pytest.raises(ValueError, match=r"\w") as caught:
            self.begin(**begin)
        RunDir.create(self.path, name="", restart=True).close()  # it is free again
        assert self.rendezvous.recall_announcement() is None
        self.leave()
        return str(caught.value)

    def recall(self) -> Announcement:
        """Another coordinator takes over from the one before."""
        self.leave()
        rendezvous = self.rendezvous
        before = rendezvous.recall_announcement()
        assert before is not None
        announcement, self._run_dir, self.reception = recall(
            self._program, rendezvous, before, self._meeting
        )
        return announcement

    def checkpoint(self, run_id: str, *steps: int) -> list[Path]:
        """What the workers of a run write, one part each."""
        writer = self.writer(run_id)
        for step in steps:
            for block in range(2):
                writer.write_part(block, step, f"block {block} before step {step}".encode())
        return [self.checkpoints / writer.directory(step) for step in steps]

    def writer(self, run_id: str) -> CheckpointWriter:
        return CheckpointWriter(
            storage=LocalStorage(self.checkpoints),
            run_id=run_id,
            num_parts=2,
            config_toml=(self.path / "config.toml").read_text(),
        )

    @property
    def checkpoints(self) -> Path:
        return self.checkpoint_dir or self.path / "checkpoints"

    @property
    def bound(self) -> bytes:
        """Where the coordinator's socket really listens."""
        found = self.reception._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(found, bytes)
        return found

    def finish(self) -> None:
        self._run_dir.write_summary({"steps": 12})

    def leave(self) -> None:
        """The coordinator ends; its address is free when this returns."""
        if self.reception is not None:
            self.reception.close()
            self.reception = None
        self.context.destroy(linger=0)
        self.context = zmq.Context()
        if self._run_dir is not None:
            self._run_dir.close()
            self._run_dir = None


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path)
    monkeypatch.setattr(zmq.Context, "instance", lambda: place.context)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # nobody pulls the plug here
    yield place
    place.leave()
    place.context.term()


def tear(checkpoint: Path) -> None:
    part = checkpoint / "part-0001.safetensors"
    os.truncate(part, part.stat().st_size // 2)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def in_directory(path: Path) -> list[str]:
    return sorted(found.name for found in path.iterdir())


# Beginning --------------------------------------------------------------------------------------


def test_new_directory_begins_a_run(place, capsys):
    found = place.begin()
    assert place.rendezvous.await_announcement() == found
    assert (found.job_text, found.run_dir) == (JOB.to_text(), str(place.path))
    assert found.coordinator == f"ipc://{place.path.parent}/coordinator"
    assert (found.resume, found.resume_step, found.recut) == ("", 0, False)
    assert found.no_job is None
    written = (place.path / "config.toml").read_text()
    assert written == load_slept_job(JOB.to_text()).config_toml
    assert said(capsys) == []


def test_directory_is_new_for_each_job_by_default(place):
    paths = [Path(place.begin(run_dir=None).run_dir) for _ in range(2)]
    assert len(set(paths)) == 2
    assert {path.parent for path in paths} == {Path.cwd() / "runs"}
    assert all("-slept" in path.name for path in paths)


# Going on ---------------------------------------------------------------------------------------


def test_run_is_resumed_from_the_newest_whole_checkpoint(place, capsys):
    before = place.begin()
    _, newest = place.checkpoint(before.run_id, 4, 8)
    found = place.begin()
    assert (found.resume, found.resume_step, found.recut) == (newest.name, 8, False)
    assert found.run_id != before.run_id
    assert said(capsys) == [f"loco: resumes from step 8 ({newest})"]


def test_damaged_checkpoint_is_set_aside_and_said(place, capsys):
    older, newest = place.checkpoint(place.begin().run_id, 4, 8)
    tear(newest)
    found = place.begin()
    assert (found.resume, found.resume_step) == (older.name, 4)
    assert said(capsys) == [
        f"loco: a damaged checkpoint is passed over: {newest}/part-0001.safetensors is not what"
        f" was written (its checksum differs); it is now damaged-{newest.name}",
        f"loco: resumes from step 4 ({older})",
    ]
    assert in_directory(place.path / "checkpoints") == [older.name, f"damaged-{newest.name}"]
    place.begin()
    assert said(capsys) == [f"loco: resumes from step 4 ({older})"]


def test_checkpoint_that_can_not_be_read_this_time_stays(place, capsys, monkeypatch):
    older, newest = place.checkpoint(place.begin().run_id, 4, 8)
    part, opened = newest / "part-0001.safetensors", Path.open

    def failing(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == part:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        assert place.begin().resume == older.name
    first, _ = said(capsys)
    assert first.endswith(f"passed over: {part} can't be read (input/output error)")
    assert place.begin().resume == newest.name


def test_run_starts_over_if_all_checkpoints_are_damaged(place, capsys):
    for checkpoint in place.checkpoint(place.begin().run_id, 4, 8):
        tear(checkpoint)
    found = place.begin()
    assert (found.resume, found.resume_step) == ("", 0)
    *damaged, last = said(capsys)
    assert len(damaged) == 2
    assert last == f"loco: {place.path} holds no complete checkpoint; the run starts over"


def test_checkpoint_that_was_only_begun_counts_for_nothing(place, capsys):
    writer = place.writer(place.begin().run_id)
    writer.write_part(0, 4, b"block 0")
    assert place.begin().resume == ""
    assert said(capsys) == [f"loco: {place.path} holds no complete checkpoint; the run starts over"]


def test_config_of_a_checkpoint_is_compared_with_the_new_one(place, capsys):
    asked: list[tuple[str, int, str]] = []

    def check(old_toml: str, step: int, new_text: str) -> Resumption:
        asked.append((old_toml, step, new_text))
        text = config(steps=20, window=7).to_text()
        return Resumption(text=text, recut=True, notes=["another cut", "12 steps become 20"])

    (checkpoint,) = place.checkpoint(place.begin().run_id, 4)
    old_toml = (place.path / "config.toml").read_text()
    found = place.begin(job={"steps": 20}, resume=check)
    assert asked == [(old_toml, 4, config(steps=20).to_text())]
    assert found.recut
    assert found.job_text == config(steps=20, window=7).to_text()
    assert said(capsys) == [
        f"loco: resumes from step 4 ({checkpoint})",
        "loco: another cut",
        "loco: 12 steps become 20",
    ]
    for name in ("given.toml", "config.toml"):
        assert "window = 7" in (place.path / name).read_text()


# The end of a run -------------------------------------------------------------------------------


def test_finished_run_leaves_nothing_to_do(place, capsys):
    place.checkpoint(place.begin().run_id, 8, 12)
    place.finish()
    found = place.begin(job={"window": 3})
    assert found == place.rendezvous.await_announcement()
    assert replace(found, nonces=()) == Announcement(no_job=0)
    assert said(capsys)[-1] == (
        f"loco: {place.path} holds a finished run of 12 steps; give more --epochs or --steps to"
        " extend it, or --fresh to start over"
    )
    assert "window = 2" in (place.path / "config.toml").read_text()


def test_config_is_of_what_runs_and_not_of_what_was_tried(place, monkeypatch):
    """A finished run that was to be extended, and was not, could be evaluated no more: its config
    had the other number of steps, also when the first command said again that it is finished."""
    place.checkpoint(place.begin().run_id, 12)
    place.finish()
    before = (place.path / "config.toml").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_receive", unbound)
        assert place.refusal(job={"steps": 24}) == "can't listen"
    assert (place.path / "config.toml").read_text() == before
    place.begin(job={"steps": 24})
    assert (place.path / "config.toml").read_text() != before
    assert place.begin().no_job == 0
    assert (place.path / "config.toml").read_text() == before


def unbound(*_: object) -> None:
    raise ValueError("can't listen")


def test_run_is_finished_only_with_a_summary_of_all_its_steps(place):
    """An extended run that was stopped behind its last step once passed for finished, for the
    summary of the shorter one was there."""
    place.checkpoint(place.begin().run_id, 12)
    found = place.begin()
    assert (found.no_job, found.resume_step) == (None, 12)
    place.finish()
    extended = place.begin(job={"steps": 20})
    assert extended.resume_step == 12
    place.checkpoint(extended.run_id, 20)
    found = place.begin(job={"steps": 20})
    assert (found.no_job, found.resume_step) == (None, 20)


# Checkpoints elsewhere --------------------------------------------------------------------------


@pytest.fixture
def elsewhere(place, tmp_path) -> Place:
    """Its checkpoints are not in its run directory."""
    place.checkpoint_dir = tmp_path / "kept"
    return place


def test_run_is_resumed_from_its_checkpoints_in_a_new_run_directory(elsewhere, tmp_path, capsys):
    """The host that died had the run directory, and with it the cut that was left open."""
    seen: list[str | None] = []

    def resolve(recorded: str | None, tell: Tell, ranks: Sequence[Facts] | None) -> str:
        seen.append(recorded)
        return JOB.to_text()

    before = elsewhere.begin(resolve=resolve)
    assert before.checkpoint_dir == str(tmp_path / "kept")
    _, newest = elsewhere.checkpoint(before.run_id, 4, 8)
    config_toml = (elsewhere.path / "config.toml").read_text()
    elsewhere.path = tmp_path / "new"
    found = elsewhere.begin(resolve=resolve)
    assert (found.resume, found.resume_step) == (newest.name, 8)
    assert (found.run_dir, found.checkpoint_dir) == (str(tmp_path / "new"), str(newest.parent))
    assert seen == [None, config_toml]
    assert said(capsys) == [f"loco: resumes from step 8 ({newest})"]


def test_run_whose_checkpoints_are_elsewhere_does_not_start_over(elsewhere, tmp_path):
    """given.toml has no places, so the resume command of the README trained from step 0 again."""
    (checkpoint,) = elsewhere.checkpoint(elsewhere.begin().run_id, 4)
    has_them = f"run directory '{elsewhere.path}' has its checkpoints"
    for other in (None, tmp_path / "other"):
        elsewhere.checkpoint_dir = other
        assert elsewhere.refusal() == (
            f"{has_them} elsewhere; give --checkpoint-dir {tmp_path}/kept, or --fresh to start over"
        )
    elsewhere.checkpoint_dir = tmp_path / "kept"
    assert elsewhere.begin().resume == checkpoint.name
    elsewhere.checkpoint_dir = None
    assert elsewhere.begin(fresh=True).resume == ""
    elsewhere.checkpoint(elsewhere.begin().run_id, 8)
    elsewhere.checkpoint_dir = tmp_path / "other"
    assert elsewhere.refusal() == (
        f"{has_them} in it; leave --checkpoint-dir out, or give --fresh to start over"
    )


def test_weights_of_a_run_whose_directory_is_lost_are_written_anew(elsewhere, tmp_path, capsys):
    """It had done its last step: only a summary in the run directory says that it is finished."""
    elsewhere.checkpoint(elsewhere.begin().run_id, 12)
    elsewhere.finish()
    assert elsewhere.begin().no_job == 0
    assert "holds a finished run of 12 steps" in said(capsys)[-1]
    elsewhere.path = tmp_path / "new"
    found = elsewhere.begin()
    assert (found.no_job, found.resume_step) == (None, 12)


def test_fresh_deletes_the_checkpoints_elsewhere_too(elsewhere, tmp_path, capsys):
    elsewhere.checkpoint(elsewhere.begin().run_id, 4, 8)
    (elsewhere.checkpoint_dir / "notes.md").touch()
    elsewhere.path = tmp_path / "new"
    found = elsewhere.begin(fresh=True)
    assert (found.resume, said(capsys)) == ("", [])
    assert in_directory(elsewhere.checkpoint_dir) == ["notes.md"]
    (later,) = elsewhere.checkpoint(found.run_id, 8)
    assert elsewhere.begin(restart=True, fresh=True).resume == later.name


def test_fresh_that_failed_is_fresh_again_in_the_next_attempt(elsewhere, monkeypatch):
    """It had noted its run directory; the launcher's next attempt resumed what should have gone."""
    elsewhere.checkpoint(elsewhere.begin().run_id, 8)

    def away(*_: object) -> None:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with monkeypatch.context() as patch:
        patch.setattr(module, "clear", away)
        assert "can't be used (connection timed out)" in elsewhere.refusal(fresh=True)
    found = elsewhere.begin(restart=True, fresh=True)
    assert (found.resume, in_directory(elsewhere.checkpoint_dir)) == ("", [])


def test_checkpoints_beyond_the_end_are_refused(elsewhere, tmp_path):
    elsewhere.checkpoint(elsewhere.begin().run_id, 8)
    elsewhere.path = tmp_path / "new"
    assert elsewhere.refusal(job={"steps": 6}) == (
        f"checkpoint directory '{tmp_path}/kept' is at step 8, beyond the 6 steps asked for; give"
        " more --epochs or --steps, or --fresh"
    )


def test_run_does_not_start_over_if_its_checkpoints_can_not_be_read_now(elsewhere, monkeypatch):
    """A store that was away for a while would have cost all that was learned."""
    (checkpoint,) = elsewhere.checkpoint(elsewhere.begin().run_id, 4)
    chunks = LocalStorage.chunks

    def failing(self: LocalStorage, name: str) -> Iterator[bytes]:
        if name.startswith(checkpoint.name):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return chunks(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "chunks", failing)
        refusal = elsewhere.refusal()
    assert f"checkpoint directory '{checkpoint.parent}' can't be used" in refusal
    assert "can't be read (input/output error)" in refusal
    assert elsewhere.begin().resume == checkpoint.name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("file", "can't be used (not a directory); mend that, or give another by --checkpoint-dir"),
        ("old", "is a run directory; give one of its own, such as '{given}/checkpoints', by"),
        ("run", "is a run directory; give one of its own, such as '{given}/checkpoints', by"),
    ],
)
def test_place_that_is_none_for_checkpoints_is_refused(place, tmp_path, given, says):
    (tmp_path / "file").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.toml").touch()
    place.checkpoint_dir = tmp_path / given
    with pytest.raises(ValueError, match=re.escape(says.format(given=tmp_path / given))):
        place.begin()
    assert not place.path.exists()


# Refusals ---------------------------------------------------------------------------------------


def test_finished_run_without_checkpoints_is_refused(place):
    place.begin()
    place.finish()
    assert place.refusal() == (
        f"run directory '{place.path}' holds a finished run and no checkpoint of it; give another"
        " by --run-dir, or --fresh to start over in it"
    )


def test_run_that_is_beyond_its_end_is_refused(place):
    place.checkpoint(place.begin().run_id, 8)
    before = (place.path / "config.toml").read_text()
    assert place.refusal(job={"steps": 6}) == (
        f"run directory '{place.path}' is at step 8, beyond the 6 steps asked for; give more"
        " --epochs or --steps, or --fresh"
    )
    assert (place.path / "config.toml").read_text() == before


def test_resume_that_is_not_allowed_is_refused_by_the_program(place, capsys):
    def refuse(old_toml: str, step: int, new_text: str) -> Resumption:
        raise ValueError("another seed; give --fresh")

    place.checkpoint(place.begin().run_id, 8)
    before = (place.path / "config.toml").read_text()
    assert place.refusal(resume=refuse, job={"window": 3}) == "another seed; give --fresh"
    assert (place.path / "config.toml").read_text() == before
    assert said(capsys) == []
    assert place.begin().resume_step == 8


def test_config_is_compared_with_a_run_without_checkpoints_too(place):
    place.begin()
    default = Program.__dataclass_fields__["resume"].default
    assert "can't be resumed" in place.refusal(resume=default)


def test_config_that_can_not_be_resolved_touches_nothing(place):
    def resolve(recorded: str | None, tell: Tell, ranks: Sequence[Facts] | None) -> str:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        place.begin(resolve=resolve)
    assert not place.path.exists()


def test_recorded_config_of_a_resumed_run_is_there_to_resolve(place):
    seen: list[str | None] = []

    def resolve(recorded: str | None, tell: Tell, ranks: Sequence[Facts] | None) -> str:
        seen.append(recorded)
        return JOB.to_text()

    place.begin(resolve=resolve)
    place.begin(resolve=resolve)
    place.begin(resolve=resolve, fresh=True)
    place.begin(resolve=resolve, fresh=True, restart=True)
    place.begin(resolve=resolve, run_dir=None, restart=True)
    recorded = load_slept_job(JOB.to_text()).config_toml
    assert seen == [None, recorded, None, recorded, recorded]


# Fresh, and the launcher's restarts -------------------------------------------------------------


def test_fresh_deletes_what_runs_write_and_nothing_else(place, capsys):
    place.checkpoint(place.begin().run_id, 8, 12)
    place.finish()
    for name in ("metrics.jsonl", "weights.safetensors", "faults.jsonl", "notes.md"):
        (place.path / name).write_text("\n")
    (place.path / "plots").mkdir()
    (place.path / "tensorboard").mkdir()
    (place.path / "logs" / "worker-0.log").touch()
    found = place.begin(fresh=True)
    assert (found.no_job, found.resume) == (None, "")
    assert said(capsys) == []
    assert in_directory(place.path) == [".lock", "config.toml", "given.toml", "notes.md", "plots"]


def test_fresh_spares_a_run_that_another_job_is_at(place):
    place.begin()
    place.leave()
    other = RunDir.create(place.path, name="", restart=True)
    with pytest.raises(ValueError, match="is in use by process"):
        place.begin(fresh=True)
    assert (place.path / "config.toml").exists()
    other.close()


def test_launcher_restart_resumes_the_run_that_began_afresh(place):
    (checkpoint,) = place.checkpoint(place.begin(fresh=True).run_id, 4)
    found = place.begin(restart=True, fresh=True)
    assert (found.resume, found.resume_step) == (checkpoint.name, 4)
    (later,) = place.checkpoint(found.run_id, 8)
    assert place.begin(restart=True, fresh=True).resume == later.name


@pytest.mark.parametrize("has_own", [False, True])
def test_launch_that_goes_on_elsewhere_does_not_begin_afresh_again(place, monkeypatch, has_own):
    """A host was lost, and with it the store: rank 0 is on another one now."""
    launchers = ["torchrun of host 0", "torchrun of host 1"]

    def cards(*given: object) -> list[Card]:
        return [Card(nonce="", launcher=launcher) for launcher in launchers]

    monkeypatch.setattr(module, "_cards_of_ranks", cards)
    monkeypatch.setattr(module, "_check_places", lambda *given: None)
    place.checkpoint_dir = place.path.with_name("checkpoints") if has_own else None
    (checkpoint,) = place.checkpoint(place.begin(fresh=True).run_id, 4)
    del launchers[0]
    found = place.begin(fresh=True)
    assert (found.resume, found.resume_step) == (checkpoint.name, 4)
    launchers[:] = ["a torchrun of today"]
    assert place.begin(fresh=True).resume == ""


def test_launcher_restart_resumes_in_the_same_directory(place):
    first = place.begin(run_dir=None)
    place.path = Path(first.run_dir)
    place.checkpoint(first.run_id, 4)
    again = place.begin(restart=True, run_dir=None)
    assert (again.run_dir, again.resume_step) == (first.run_dir, 4)


# Another coordinator ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "address"),
    [("zmq-ipc", "127.0.0.1"), ("zmq-tcp", "127.0.0.1"), ("zmq-tcp", "::1")],
)
def test_next_coordinator_takes_over_the_address_of_the_last(place, link, address, capsys):
    place.listen_at(address)
    place.checkpoint(place.begin(job={"link": link}).run_id, 8)
    before = place.begin(job={"link": link})
    bound = place.bound
    said(capsys)
    for _ in range(2):
        assert place.recall() == before
        assert place.bound == bound
        assert place.reception.address == before.coordinator
    assert said(capsys) == []
    with pytest.raises(ValueError, match="is in use"):
        RunDir.create(place.path, name="", restart=True)


def test_next_coordinator_listens_elsewhere_if_its_address_is_taken(place):
    before = place.begin(job={"link": "zmq-tcp"})
    place.leave()
    port = int(before.coordinator.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert place.recall() == before
        assert place.reception.address != before.coordinator
        found = place.rendezvous
        found.recall_announcement()
        assert found.find_coordinator() == place.reception.address
        assert place.recall() == before, "the one after it knows"
        assert place.reception.address == found.find_coordinator()


def test_next_coordinator_deletes_and_writes_nothing(place):
    place.begin(fresh=True)
    (place.path / "config.toml").write_text("as it was\n")
    place.recall()
    assert (place.path / "config.toml").read_text() == "as it was\n"
