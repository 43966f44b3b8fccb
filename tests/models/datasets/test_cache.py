"""Decoded images on the disk: whole or not there, written by one process, room taken before."""

import errno
import fcntl
import mmap
import os

import numpy as np
import pytest
import torch

from models import host_memory
from models.datasets import cache, progress
from models.tell import unheard

SHAPE = (5, 1, 2, 2)


def mapped(fill, *, content: str = "same", tell=unheard) -> torch.Tensor:
    def prepare(_):
        return SHAPE, fill

    return cache.mapped(prepare, place="here", content=content, what="/data/pets", tell=tell)


def count_up(images_NCHW: np.ndarray, progress) -> None:
    for row in range(len(images_NCHW)):
        images_NCHW[row] = row
        progress.advance(1)


def never(*_) -> None:
    raise AssertionError("it was decoded already")


def names() -> list[str]:
    folder = cache.directory()
    return sorted(file.suffix for file in folder.iterdir()) if folder.is_dir() else []


def test_images_are_decoded_once():
    expected = torch.arange(5).reshape(5, 1, 1, 1).expand(SHAPE)
    assert torch.equal(mapped(count_up).long(), expected)
    assert torch.equal(mapped(never).long(), expected)
    assert names() == [".npy"]


def test_mapped_images_are_read_only_on_the_disk():
    mapped(count_up)
    (file,) = cache.directory().iterdir()
    assert not np.load(file, mmap_mode="r").flags.writeable
    assert file.name.startswith("pets-")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_decode_leaves_nothing(error):
    def break_off(images_NCHW, progress):
        images_NCHW[:3] = 9
        raise error("in between")

    with pytest.raises(error, match="in between"):
        mapped(break_off)
    assert names() == []
    assert mapped(count_up)[3, 0, 0, 0] == 3


def test_part_of_a_killed_process_is_overwritten():
    mapped(count_up)
    (file,) = cache.directory().iterdir()
    part = file.with_suffix(".part")
    part.write_bytes(file.read_bytes()[:-7] + b"garbage and more")
    file.unlink()
    assert mapped(count_up)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert names() == [".npy"]


def test_file_that_was_cut_short_is_decoded_anew():
    mapped(count_up)
    (file,) = cache.directory().iterdir()
    os.truncate(file, file.stat().st_size - 1)
    assert mapped(count_up)[4, 0, 0, 0] == 4


def test_second_process_waits_for_the_first_and_takes_what_it_wrote(monkeypatch):
    """The first is played by this test: it holds the part while the second one begins."""
    mapped(count_up)
    (file,) = cache.directory().iterdir()
    content, part = file.read_bytes(), file.with_suffix(".part")
    file.unlink()
    first = part.open("ab")
    fcntl.flock(first, fcntl.LOCK_EX)
    told = []

    def finish(_: float) -> None:
        part.write_bytes(content)
        part.rename(file)
        first.close()

    monkeypatch.setattr(cache.time, "sleep", finish)
    images = mapped(never, tell=lambda phase, **_: told.append(phase))
    assert images[4, 0, 0, 0] == 4
    assert told == ["waiting for the process that decodes the images of /data/pets"]
    assert names() == [".npy"]


def test_second_process_gives_a_stalled_one_up(monkeypatch):
    mapped(count_up)
    (file,) = cache.directory().iterdir()
    part = file.with_suffix(".part")
    file.unlink()
    monkeypatch.setattr(cache, "STALLED_S", 0.0)
    with part.open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(
            ValueError, match=r"another process decodes .* no progress for 0 s; end"
        ):
            mapped(never)
        assert part.exists()


def test_set_fits_if_it_takes_a_quarter_of_what_this_process_may_have(monkeypatch):
    """In a container the host's memory was counted, and the kernel ended the process."""
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 400)
    assert cache.fits_in_memory((25, 1, 2, 2))
    assert not cache.fits_in_memory((26, 1, 2, 2))


def test_part_is_touched_while_it_is_written_to_the_disk(monkeypatch):
    """It was written in one call, of minutes for tens of GB: whoever waited gave its process up."""
    written: list[tuple[int, int]] = []
    touched: list[int] = []  # how many slices were written by then
    now_s, flush = [100.0], mmap.mmap.flush

    class SlowDisk(mmap.mmap):
        def flush(self, *piece: int) -> None:
            flush(self, *piece)
            written.append(piece)
            now_s[0] += 100

    monkeypatch.setattr(mmap, "mmap", SlowDisk)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(os, "utime", lambda part: touched.append(len(written)))
    monkeypatch.setattr(cache, "FLUSHED_BYTES", 2 * mmap.PAGESIZE)
    shape = (6, 1, 64, mmap.PAGESIZE // 64)  # a page each, and a header

    def fill(images_NCHW, _) -> None:
        images_NCHW[:] = 7

    images = cache.mapped(
        lambda _: (shape, fill), place="here", content="all", what="pets", tell=unheard
    )
    assert images.eq(7).all()
    size = 2 * mmap.PAGESIZE
    assert written == [(0, size), (size, size), (2 * size, size), (3 * size, 128)]
    assert touched == [1, 2, 3, 4]


def test_full_disk_is_found_before_anything_is_decoded(monkeypatch):
    """Writing to mapped memory that has no room on the disk ends a process with SIGBUS."""

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(cache.NoRoom, match=r"/loco-runtime/images: no space left on device"):
        mapped(never)
    assert names() == []


def test_new_content_replaces_the_old_one_of_its_place():
    first = mapped(count_up, content="old")
    mapped(count_up, content="new")
    assert names() == [".npy"]
    assert first[4, 0, 0, 0] == 4  # whoever has it mapped keeps it


def test_parts_that_nobody_writes_any_more_are_removed_with_the_old_content():
    mapped(count_up, content="old")
    (file,) = cache.directory().iterdir()
    dead, alive = file.with_name(f"{file.stem}x.part"), file.with_name(f"{file.stem}y.part")
    dead.write_text("of a process that was killed")
    with alive.open("ab") as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        mapped(count_up, content="new")
        assert (dead.exists(), alive.exists()) == (False, True)


def test_cache_is_below_xdg_cache_home_if_that_is_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.directory() == tmp_path / ".cache/loco-runtime/images"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.directory() == tmp_path / "x/loco-runtime/images"


def test_user_without_a_home_has_no_cache(monkeypatch):
    def homeless(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cache.Path, "expanduser", homeless)
    with pytest.raises(cache.NoRoom, match="no home directory"):
        mapped(never)


def test_empty_file_is_decoded_anew():
    """As a crash may leave it: "No data left in file", at each start."""
    mapped(count_up)
    (file,) = cache.directory().iterdir()
    os.truncate(file, 0)
    assert mapped(count_up)[4, 0, 0, 0] == 4
