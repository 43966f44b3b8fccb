"""An image of a state is read whole or not at all."""

import os
from pathlib import Path

import pytest

from runtime.state.image import HEAD, free_image, read_image, write_image

IMAGE = bytes(range(256)) * 5
PIECES = [IMAGE[:700], memoryview(IMAGE)[700:701], b"", memoryview(IMAGE)[701:]]
pwrite = os.pwrite


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "image"
    path.touch()
    return path


def test_image_that_was_written_is_read(path):
    write_image(str(path), 7, PIECES)
    assert read_image(str(path)) == (7, IMAGE)
    write_image(str(path), 0, [b"short"])  # over a longer one
    assert read_image(str(path)) == (0, b"short")


@pytest.mark.parametrize("pieces", [[], [b""]])
def test_empty_image_is_an_image(path, pieces):
    write_image(str(path), 3, pieces)
    assert read_image(str(path)) == (3, b"")


def test_image_never_written_is_not_read(path):
    assert read_image(str(path)) is None
    path.write_bytes(bytes(HEAD.size))
    assert read_image(str(path)) is None


@pytest.mark.parametrize("size", [0, 1, HEAD.size - 1])
def test_torn_head_is_not_read(path, size):
    write_image(str(path), 7, PIECES)
    path.write_bytes(path.read_bytes()[:size])
    assert read_image(str(path)) is None


@pytest.mark.parametrize("size", [0, 1, len(IMAGE) - 1])
def test_torn_body_is_not_read(path, size):
    write_image(str(path), 7, PIECES)
    path.write_bytes(path.read_bytes()[: HEAD.size + size])
    assert read_image(str(path)) is None


def test_death_while_it_is_written_leaves_nothing_to_read(path):
    """The head is cleared before the first byte, and written after the last."""
    write_image(str(path), 7, PIECES)

    def die() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write_image(str(path), 8, [IMAGE[::-1]] * 2, halfway=die)
    assert path.read_bytes()[HEAD.size :].startswith(IMAGE[::-1])
    assert read_image(str(path)) is None


def test_image_the_system_takes_in_pieces_is_written_whole(path, monkeypatch):
    """A single write takes at most 2 GiB."""

    def takes_a_little(fd, content, offset):
        return pwrite(fd, bytes(content)[:100], offset)

    monkeypatch.setattr("runtime.state.image.os.pwrite", takes_a_little)
    write_image(str(path), 7, PIECES)
    monkeypatch.undo()
    assert read_image(str(path)) == (7, IMAGE)


def test_freed_image_takes_no_memory(path):
    write_image(str(path), 7, PIECES)
    free_image(str(path))
    assert path.stat().st_size == 0
    assert read_image(str(path)) is None
