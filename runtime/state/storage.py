"""Where checkpoints lie: a local directory or an object store, behind one seam.

Owns the seam, the local directory, and the choice between them. Knows nothing of what is stored.
Imports no torch, for keepers write; and fsspec only if a URL is given (runtime.state.object_store).

A name is a path below the storage's root, such as "00000120-5f3a9c1e/manifest.json".
"""

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 1 << 22
TRIAL = ".trial"  # a folder
LOCAL_URLS = ("file://", "local://")


class Storage(Protocol):
    """Files in folders of one level. Every method raises OSError if it can't do its work."""

    def locate(self, name: str = "") -> str:
        """The path or URL of a name, as a user finds it."""

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Replace a file. When this returns every reader finds it, whole."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's bytes in order. Raises FileNotFoundError if it is not there."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def names(self) -> list[str]:
        """The files and folders at the root; none if there is no root yet."""

    def names_in(self, folder: str) -> list[str]:
        """The files of a folder; none if there is no such folder."""

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it; what is not there is no error."""

    def move(self, folder: str, to: str) -> None:
        """Give a folder another name, which is free."""

    def shares_disk(self, path: Path) -> bool:
        """Whether room that is made here is room for a local path too."""


@dataclass(frozen=True)
class LocalStorage:
    """A local directory, made when it is first written to. A write is a rename."""

    root: Path

    def locate(self, name: str = "") -> str:
        return str(self.root / name)

    def write(self, name: str, content: bytes | memoryview) -> None:
        path = self.root / name
        _make_folders(path.parent)
        write_durably(path, content)

    def chunks(self, name: str) -> Iterator[bytes]:
        with (self.root / name).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def names(self) -> list[str]:
        return self.names_in("")

    def names_in(self, folder: str) -> list[str]:
        try:
            return [path.name for path in (self.root / folder).iterdir()]
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        path = self.root / name
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        shutil.rmtree(path, ignore_errors=True)  # another process may be at it too
        if path.exists():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    def move(self, folder: str, to: str) -> None:
        (self.root / folder).rename(self.root / to)

    def shares_disk(self, path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self.root.stat().st_dev == path.stat().st_dev
        return False


def open_storage(place: str, *, timeout_s: float | None = None) -> Storage:
    """The storage at an absolute path or a URL. It does nothing until its first use, so it may be
    opened before a fork. `timeout_s` is for each call of an
    object store; without it the store's own. Raises ValueError as `check_place` does."""
    if is_url(place):
        from runtime.state.object_store import TIMEOUT_S, ObjectStore

        return ObjectStore(place, timeout_s=TIMEOUT_S if timeout_s is None else timeout_s)
    return LocalStorage(Path(place))


def is_url(place: str) -> bool:
    """Whether a place is an object store's URL, not a path."""
    return "://" in place


def check_place(given: str) -> str:
    """What a user gave as the absolute path or the URL that it means. Raises ValueError, with the
    remedy, if this host can't open such a URL or the path is in the home directory of nobody."""
    for scheme in LOCAL_URLS:
        given = given.removeprefix(scheme)
    if is_url(given):
        from runtime.state.object_store import check_url

        check_url(given)
        return given.rstrip("/")
    try:
        return os.path.abspath(Path(given).expanduser())
    except RuntimeError as error:
        raise ValueError(
            f"{given!r} begins with a home directory that is not known here; give the path in full"
        ) from error


def read(storage: Storage, name: str) -> bytes:
    """All of a file. Raises OSError, and FileNotFoundError if it is not there."""
    return b"".join(storage.chunks(name))


def try_out(storage: Storage) -> None:
    """Write a small file, read it back and remove it. Raises OSError."""
    content = secrets.token_bytes(32)
    try:
        storage.write(f"{TRIAL}/trial", content)
        if read(storage, f"{TRIAL}/trial") != content:
            raise OSError(errno.EIO, "what is read is not what was written")
    except OSError:
        with contextlib.suppress(OSError):
            storage.remove(TRIAL)
        raise
    storage.remove(TRIAL)


def reason(error: OSError) -> str:
    """Why, in the words of an error, to stand in the middle of a sentence."""
    text = error.strerror or str(error) or type(error).__name__
    is_the_systems = error.errno is not None and text == os.strerror(error.errno)
    return text[:1].lower() + text[1:] if is_the_systems else text


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Replace a local file as one, and have it on the disk when this returns. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            temporary.unlink()  # half a file helps no one, least of all on a full disk
        raise
    _sync_folder(path.parent)


def remove_half_written(path: Path) -> None:
    """Remove what deaths in the midst of `write_durably` have left beside a file that no other
    process writes now. Raises OSError."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*tmp"):
        temporary.unlink(missing_ok=True)


def _make_folders(path: Path) -> None:
    """Make a folder and those above it, and have them on the disk: a file is, only if they are."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync_folder(folder.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: OSError) -> bool:
    """Whether it says that the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
