"""Checkpoints are complete or not there; what is damaged is passed over, loudly."""

import errno
import json
import os
from pathlib import Path

import pytest

from runtime.state import checkpoint, storage
from runtime.state.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    DamagedCheckpoint,
    last_committed,
    last_complete,
    newest,
)
from runtime.state.storage import LocalStorage

CONFIG = "lag = 1\n"
RUN_ID = "0123456789abcdef"


def image(block: int, step: int) -> bytes:
    return f"block {block} before step {step}; ".encode() * 50


def make_writer(root: Path, *, num_parts: int = 3, run_id: str = RUN_ID) -> CheckpointWriter:
    return CheckpointWriter(
        storage=LocalStorage(root), run_id=run_id, num_parts=num_parts, config_toml=CONFIG
    )


def completes(writer: CheckpointWriter, block: int, step: int) -> bool:
    """Write a part; whether the checkpoint is complete by it."""
    before = writer.is_complete(step)
    writer.write_part(block, step, image(block, step))
    return writer.is_complete(step) and not before


def write_all(writer: CheckpointWriter, *steps: int) -> None:
    for step in steps:
        done = [completes(writer, k, step) for k in range(writer.num_parts)]
        assert done == [False] * (writer.num_parts - 1) + [True]


def steps_on_disk(root: Path) -> list[int]:
    directories = root.glob("*-????????")
    return sorted(int(path.name[:8]) for path in directories)


def found(root: Path) -> list[int | str]:
    """Steps of what is whole, and messages for what is damaged, in the order they come."""
    entries = newest(LocalStorage(root))
    return [f.step if isinstance(f, Checkpoint) else str(f) for f in entries]


def last(root: Path) -> Checkpoint | None:
    return last_complete(LocalStorage(root))


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*.tmp")]


# Completeness -----------------------------------------------------------------------------------


def test_checkpoint_is_complete_only_with_all_parts(tmp_path):
    writer = make_writer(tmp_path)
    for block in (2, 0):
        assert not completes(writer, block, 12)
        assert not writer.is_complete(12)
        assert found(tmp_path) == []
    assert completes(writer, 1, 12)
    assert writer.is_complete(12)
    assert found(tmp_path) == [12]
    assert leftovers(tmp_path) == []


def test_checkpoint_that_was_written_is_found(tmp_path):
    write_all(make_writer(tmp_path), 12)
    whole = last(tmp_path)
    assert whole is not None
    assert (whole.step, whole.num_parts, whole.config_toml) == (12, 3, CONFIG)
    assert [whole.read_part(k) for k in range(3)] == [image(k, 12) for k in range(3)]
    assert Checkpoint.open(whole.storage, whole.name) == whole == last_committed(whole.storage)


def test_manifest_says_what_the_parts_are(tmp_path):
    writer = make_writer(tmp_path)
    write_all(writer, 12)
    manifest = json.loads((tmp_path / writer.directory(12) / "manifest.json").read_text())[
        "manifest"
    ]
    assert (manifest["step"], manifest["config"]) == (12, CONFIG)
    assert [part["bytes"] for part in manifest["parts"]] == [len(image(k, 12)) for k in range(3)]
    assert len({part["xxh3_64"] for part in manifest["parts"]}) == 3


def test_part_that_comes_twice_completes_nothing_twice(tmp_path):
    """A worker that dies behind its part makes the same one again."""
    writer = make_writer(tmp_path)
    assert not completes(writer, 0, 12)
    assert not completes(writer, 0, 12)
    assert not completes(writer, 1, 12)
    assert completes(writer, 2, 12)
    assert not completes(writer, 1, 12)
    assert found(tmp_path) == [12]


def test_parts_of_two_runs_do_not_mix(tmp_path):
    """A run that is resumed from step 8 comes to step 12 again, in another generation."""
    first, second = (make_writer(tmp_path, num_parts=2, run_id=c * 16) for c in "ab")
    first.write_part(0, 12, image(0, 12))
    assert not completes(second, 1, 12)
    assert found(tmp_path) == []
    assert completes(second, 0, 12)
    assert last(tmp_path).name == second.directory(12)


def test_later_of_two_runs_at_one_step_counts(tmp_path, monkeypatch):
    times = iter([10.0, 20.0])
    monkeypatch.setattr(checkpoint.time, "time", lambda: next(times))
    earlier, later = (make_writer(tmp_path, num_parts=1, run_id=c * 16) for c in "ba")
    write_all(earlier, 12)
    write_all(later, 12)
    assert last(tmp_path).name == later.directory(12)


@pytest.mark.parametrize("when", ["manifest.json", "part-0002.json"])
def test_writers_that_finish_at_once_make_one_manifest(tmp_path, monkeypatch, when):
    """Each rank has a writer; the second one comes in just before the first writes this file."""
    writer = make_writer(tmp_path)
    writer.write_part(0, 12, image(0, 12))
    write = storage.write_durably
    completed = []

    def interrupted(path: Path, content: bytes) -> None:
        if path.name == when:
            monkeypatch.setattr(storage, "write_durably", write)
            completed.append(completes(writer, 2, 12))
        write(path, content)

    if when == "manifest.json":
        writer.write_part(2, 12, image(2, 12))
    monkeypatch.setattr(storage, "write_durably", interrupted)
    completed.append(completes(writer, 1, 12))
    if when == "part-0002.json":
        completed.append(completes(writer, 2, 12))
    assert any(completed)
    assert found(tmp_path) == [12]
    assert len(list(tmp_path.rglob("manifest.json"))) == 1
    assert leftovers(tmp_path) == []


# Damage -----------------------------------------------------------------------------------------


def tear(part: Path) -> None:
    os.truncate(part, part.stat().st_size // 2)


def flip(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


def tear_manifest(part: Path) -> None:
    tear(part.parent / "manifest.json")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (tear, "part-0001.safetensors is not what was written (its checksum differs)"),
        (flip, "part-0001.safetensors is not what was written (its checksum differs)"),
        (Path.unlink, "part-0001.safetensors can't be read (no such file or directory)"),
        (tear_manifest, "manifest.json can't be read"),
    ],
)
def test_damaged_checkpoint_says_so_and_the_one_before_follows(tmp_path, damage, says):
    writer = make_writer(tmp_path)
    write_all(writer, 12, 24)
    damage(tmp_path / writer.part(24, 1))
    message, step = found(tmp_path)
    assert message == f"{tmp_path}/{writer.directory(24)}/{says}"
    assert step == 12
    assert last(tmp_path).step == 12
    assert isinstance(next(newest(LocalStorage(tmp_path))), DamagedCheckpoint)


def test_checkpoints_that_are_all_damaged_are_none(tmp_path):
    writer = make_writer(tmp_path)
    write_all(writer, 12, 24)
    for step in (12, 24):
        flip(tmp_path / writer.part(step, 0))
    assert last(tmp_path) is None
    assert all(isinstance(entry, DamagedCheckpoint) for entry in newest(LocalStorage(tmp_path)))


def test_older_checkpoints_are_read_only_if_they_are_needed(tmp_path, monkeypatch):
    writer = make_writer(tmp_path)
    write_all(writer, 12, 24)
    verified = []
    monkeypatch.setattr(Checkpoint, "verify", lambda self: verified.append(self.name))
    assert last(tmp_path).step == 24
    assert verified == [writer.directory(24)]


def test_run_without_checkpoints(tmp_path):
    assert found(tmp_path) == []
    assert last(tmp_path) is None
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json can't be read"):
        Checkpoint.open(LocalStorage(tmp_path), "00000012-none")


# Pruning ----------------------------------------------------------------------------------------


def test_two_newest_checkpoints_stay(tmp_path):
    write_all(make_writer(tmp_path), 4, 8, 12, 16)
    assert steps_on_disk(tmp_path) == [12, 16]
    assert found(tmp_path) == [16, 12]


def test_checkpoint_never_completed_goes_when_it_is_old(tmp_path):
    writer = make_writer(tmp_path)
    for step in (3, 6, 9, 10):
        writer.write_part(0, step, image(0, step))
    write_all(writer, 4)
    assert steps_on_disk(tmp_path) == [3, 4, 6, 9, 10]
    write_all(writer, 8)
    assert steps_on_disk(tmp_path) == [4, 6, 8, 9, 10]
    write_all(writer, 9)
    assert steps_on_disk(tmp_path) == [8, 9, 10]


# The disk ---------------------------------------------------------------------------------------


def full_disk(fd: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_leaves_nothing_half_done(tmp_path, monkeypatch):
    writer = make_writer(tmp_path)
    write_all(writer, 12)
    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            writer.write_part(0, 24, image(0, 24))
    assert list((tmp_path / writer.directory(24)).iterdir()) == []
    assert found(tmp_path) == [12]
    write_all(writer, 24)  # there is space again
    assert found(tmp_path) == [24, 12]


def test_checkpoint_that_was_given_up_gets_no_more_parts(tmp_path):
    """Others stay. Parts of a later checkpoint failed on one host: the earlier one, of which
    another host had still a part to write, was removed with it."""
    writer = make_writer(tmp_path)
    writer.write_part(0, 80, image(0, 80))
    writer.write_part(0, 100, image(0, 100))
    writer.give_up(100)
    assert steps_on_disk(tmp_path) == [80]
    writer.write_part(1, 100, image(1, 100))
    assert steps_on_disk(tmp_path) == [80]
    for block in range(1, writer.num_parts):
        writer.write_part(block, 80, image(block, 80))
    assert found(tmp_path) == [80]
    write_all(writer, 120, 140)
    assert not list(tmp_path.glob("*.given-up"))
