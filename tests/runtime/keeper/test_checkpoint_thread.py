"""Parts go from memory to the disk on the keeper's thread, and a worker never waits in vain."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from runtime.faults.plan import parse
from runtime.keeper.checkpoint_thread import CheckpointThread
from runtime.state.checkpoint import Checkpoint, CheckpointWriter, newest
from runtime.state.image import write_image
from runtime.state.object_store import ObjectStore
from runtime.state.status_page import Field, OwnedMemory
from runtime.state.storage import LocalStorage, read

TIMEOUT_S = 20.0
PART = b"the state of block 0 " * 40


@pytest.fixture
def writer(tmp_path) -> CheckpointWriter:
    return make_writer(tmp_path)


def make_writer(
    run_dir: Path, *, run_id: str = "0123456789abcdef", num_parts: int = 1
) -> CheckpointWriter:
    return CheckpointWriter(
        storage=LocalStorage(run_dir / "checkpoints"),
        run_id=run_id,
        num_parts=num_parts,
        config_toml="lag = 1\n",
    )


def lay(memory: OwnedMemory, step: int) -> None:
    """What a worker does with its part."""
    write_image(memory.paths.checkpoint, step, [PART])
    memory.page[Field.CHECKPOINT] = step + 1


@pytest.fixture
def write(writer, memory, tmp_path) -> Callable[..., list[str]]:
    """Write parts of block 0 with these faults; return what the user is told."""

    def write(faults: str, *steps: int, run: CheckpointWriter = writer) -> list[str]:
        said: list[str] = []
        for step in steps:
            disk = CheckpointThread(parse(faults), say=said.append)
            lay(memory, step)
            disk.write(run, 0, memory, run_dir=tmp_path)
            disk.close(TIMEOUT_S)
            assert memory.page[Field.CHECKPOINT_DONE] == step + 1
            assert Path(memory.paths.checkpoint).stat().st_size == 0, "its memory is given back"
        return said

    return write


def checkpoints_of(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def found(run_dir: Path) -> list[int | str]:
    entries = newest(LocalStorage(checkpoints_of(run_dir)))
    return [f.step if isinstance(f, Checkpoint) else str(f) for f in entries]


def test_part_gets_to_the_disk(write, writer, tmp_path):
    assert write("", 12) == []
    assert (checkpoints_of(tmp_path) / writer.part(12, 0)).read_bytes() == PART
    assert found(tmp_path) == [12]


def test_full_disk_is_said_and_costs_that_checkpoint_only(write, writer, tmp_path):
    said = write("disk-full:0@20", 12, 24, 36)
    assert said == [
        "the checkpoint at step 24 was not written: No space left on device"
        f" ({checkpoints_of(tmp_path)}); training goes on, the one before stays"
    ]
    assert found(tmp_path) == [36, 12]


def test_failed_checkpoint_is_removed_and_gets_no_more_parts(writer, memory, tmp_path):
    """On a small disk failed checkpoints left their finished parts, 18 directories of them, until
    not even the weights found room."""
    pair = make_writer(tmp_path, run_id="0" * 16, num_parts=3)
    others = [OwnedMemory("first"), OwnedMemory("last")]
    said: list[str] = []
    disk = CheckpointThread(parse("disk-full:1@0"), say=said.append)
    for block, owned in enumerate((others[0], memory, others[1])):
        lay(owned, 12)
        disk.write(pair, block, owned, run_dir=tmp_path)
    disk.close(TIMEOUT_S)
    assert len(said) == 1
    left = [path.name for path in checkpoints_of(tmp_path).iterdir()]
    assert left == ["00000012-00000000.given-up"]
    assert [owned.page[Field.CHECKPOINT_DONE] for owned in (*others, memory)] == [13] * 3
    for owned in others:
        owned.close()


def test_older_checkpoint_makes_room_on_a_full_disk(write, writer, monkeypatch, tmp_path):
    write("", 12, 24)
    write_part = CheckpointWriter.write_part

    def room_for_two(self: CheckpointWriter, block: int, step: int, image: bytes) -> None:
        if len(self.storage.names()) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_part(self, block, step, image)

    monkeypatch.setattr(CheckpointWriter, "write_part", room_for_two)
    assert write("", 36) == []
    assert found(tmp_path) == [36, 24]


def test_full_disk_on_which_nothing_can_be_deleted_ends_the_attempt(write, writer, monkeypatch):
    """On some file systems deleting takes room, too: it was tried again for ever."""
    write("", 12, 24)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CheckpointWriter, "write_part", full)
    monkeypatch.setattr(type(writer.storage), "remove", full)
    (said,) = write("", 36)
    assert "step 36 was not written: No space left on device" in said


def test_newest_checkpoint_makes_room_for_nothing(write, writer, monkeypatch, tmp_path):
    write("", 12, 24)
    (said,) = write("disk-full:0@30", 36)
    assert "No space left on device" in said
    assert found(tmp_path) == [24]


@pytest.mark.parametrize("kind", ["torn", "flip"])
def test_damaged_part_is_noticed_when_it_is_looked_for(write, writer, kind, tmp_path):
    assert write(f"{kind}:0@20", 12, 24) == []
    damaged, whole = found(tmp_path)
    part = checkpoints_of(tmp_path) / writer.part(24, 0)
    assert damaged == f"{part} is not what was written (its checksum differs)"
    assert whole == 12
    size = part.stat().st_size
    assert size == (len(PART) // 2 if kind == "torn" else len(PART))
    write(f"{kind}:0@20", 36)
    assert found(tmp_path)[0] == 36  # it strikes once in a run


def test_fault_of_another_block_is_no_concern(write, writer, tmp_path):
    assert write("disk-full:1@0,torn:1@0,flip:2@0,kill:0@0", 12) == []
    assert found(tmp_path) == [12]


def test_failing_disk_is_told_and_the_worker_goes_on(write, tmp_path):
    (tmp_path / "file").touch()
    nowhere = make_writer(tmp_path / "file", run_id="0" * 16)
    (said,) = write("", 12, run=nowhere)
    assert "step 12 was not written: Not a directory" in said


def test_part_announced_twice_is_written_once(writer, memory, tmp_path):
    lay(memory, 12)
    disk = CheckpointThread((), say=pytest.fail)
    disk.write(writer, 0, memory, run_dir=tmp_path)
    disk.close(TIMEOUT_S)
    (checkpoints_of(tmp_path) / writer.part(12, 0)).unlink()
    again = CheckpointThread((), say=pytest.fail)
    again.write(writer, 0, memory, run_dir=tmp_path)
    again.close(TIMEOUT_S)
    assert not (checkpoints_of(tmp_path) / writer.part(12, 0)).exists()


def test_part_of_a_worker_that_is_gone_is_written(writer, memory, tmp_path):
    """Its memory is the keeper's; here two workers' parts make the checkpoint."""
    pair = make_writer(tmp_path, run_id="0" * 16, num_parts=2)
    other = OwnedMemory("other")
    disk = CheckpointThread((), say=pytest.fail)
    for block, owned in enumerate((memory, other)):
        lay(owned, 12)
        disk.write(pair, block, owned, run_dir=tmp_path)
    disk.close(TIMEOUT_S)
    assert pair.is_complete(12)
    other.close()


def test_write_that_hangs_is_left_behind_when_told(writer, memory, monkeypatch, tmp_path):
    """A dead network disk kept Ctrl-C from ending a job, for ten minutes."""
    begun, may_end = threading.Event(), threading.Event()

    def write_part(*_):
        begun.set()
        may_end.wait(TIMEOUT_S)

    monkeypatch.setattr(CheckpointWriter, "write_part", write_part)
    disk = CheckpointThread((), say=pytest.fail)
    lay(memory, 12)
    disk.write(writer, 0, memory, run_dir=tmp_path)
    assert begun.wait(TIMEOUT_S)
    disk.close(TIMEOUT_S, give_up=lambda: True)
    assert disk._thread.is_alive()
    memory.page[Field.CHECKPOINT_DONE] = 0
    may_end.set()
    disk._thread.join(TIMEOUT_S)
    assert memory.page[Field.CHECKPOINT_DONE] == 0, "its memory may be gone by now"


# An object store --------------------------------------------------------------------------------


@pytest.fixture
def in_store() -> CheckpointWriter:
    storage = ObjectStore(f"memory://test/{uuid4().hex}", timeout_s=0.05)
    return CheckpointWriter(storage=storage, run_id="0" * 16, num_parts=1, config_toml="lag = 1\n")


@pytest.mark.parametrize("kind", ["torn", "flip"])
def test_part_in_a_store_is_damaged_likewise(write, in_store, kind):
    assert write(f"{kind}:0@20", 12, 24, run=in_store) == []
    damaged, whole = newest(in_store.storage)
    part = in_store.part(24, 0)
    assert str(damaged).startswith(f"{in_store.storage.locate(part)} is not what was written")
    assert whole.step == 12
    size = len(read(in_store.storage, part))
    assert size == (len(PART) // 2 if kind == "torn" else len(PART))


def test_store_that_does_not_answer_is_told_once_a_checkpoint(write, in_store, monkeypatch):
    """It was asked what to remove and what stays, each time until the timeout."""
    over, asked = threading.Event(), []
    fs, _ = in_store.storage._opened

    def silent(path: str, *_: object) -> None:
        asked.append(path)
        over.wait(TIMEOUT_S)

    with monkeypatch.context() as patch:
        for method in ("info", "pipe_file", "ls", "rm"):
            patch.setattr(fs, method, silent)
        said = write("", 12, 24, run=in_store)
        over.set()
    assert said == [
        f"the checkpoint at step {step} was not written: the store has not answered in 0 s"
        f" ({in_store.storage.locate()}); training goes on"
        for step in (12, 24)
    ]
    assert len(asked) == 2
    assert write("", 36, run=in_store) == []
    assert in_store.is_complete(36)


def test_completeness_is_looked_for_without_waiting(writer, tmp_path, monkeypatch):
    """The keeper asks in its loop: a store that does not answer must not keep it from a restart."""
    may_end = threading.Event()
    is_complete = CheckpointWriter.is_complete

    def slow(self: CheckpointWriter, step: int) -> bool:
        may_end.wait(TIMEOUT_S)
        return is_complete(self, step)

    monkeypatch.setattr(CheckpointWriter, "is_complete", slow)
    disk = CheckpointThread((), say=pytest.fail)
    assert not disk.knows_complete(writer, 12)
    looking = disk._looking
    writer.write_part(0, 12, PART)
    assert not disk.knows_complete(writer, 12)
    assert disk._looking is looking, "one at a time"
    may_end.set()
    looking.join(TIMEOUT_S)
    assert disk.knows_complete(writer, 12)
    disk.close(TIMEOUT_S)
