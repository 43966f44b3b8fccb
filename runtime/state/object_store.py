"""An object store as a place for checkpoints, through fsspec: S3, GCS and their like.

Owns what such a store lacks: a write is read back, since nothing renames or flushes there, and
every call has a timeout. Knows nothing of what is stored. Imports no torch; imported only if a URL
is given.

A filesystem of fsspec has threads and sockets, which a fork would break: each process opens its own
when it first uses it.
"""

import errno
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import xxhash
from fsspec.registry import get_filesystem_class, known_implementations

T = TypeVar("T")

TIMEOUT_S = 20.0  # of a call, beside what it moves
SLOWEST_BYTES_PER_S = 2e6  # a transfer that is slower counts as broken
CHUNK_BYTES = 1 << 24
LONGEST_REASON = 200  # characters of what a store says


class StoreError(OSError):
    """A store did not do what it was asked for; `strerror` says why. Its cause is the store's own
    error, if it gave one."""


class ObjectStore:
    """All below a URL such as s3://bucket/prefix. Its root need not exist, its bucket must.

    A call that runs into its timeout raises StoreError with ETIMEDOUT and is left behind: if it
    still succeeds later, its object is there.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"ObjectStore({self._url!r})"

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The filesystem and the root in it. Listings are not cached: others write there too."""
        fs, root = fsspec.url_to_fs(self._url, use_listings_cache=False, skip_instance_cache=True)
        return fs, root.rstrip("/")

    def locate(self, name: str = "") -> str:
        return f"{self._url}/{name}" if name else self._url

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write under the final name, then read it back and compare checksums."""
        content, size = bytes(content), len(content)  # fsspec's stores take nothing else
        try:
            self._call(name, lambda fs, path: fs.pipe_file(path, content), moves_bytes=size)
        except FileNotFoundError as error:
            raise StoreError(errno.ENOENT, "there is no such bucket", self._url) from error
        digest = xxhash.xxh3_64()
        for chunk in self.chunks(name):
            digest.update(chunk)
        if digest.intdigest() != xxhash.xxh3_64_intdigest(content):
            what = "what is read back is not what was written"
            raise StoreError(errno.EIO, what, self.locate(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        size = self._call(name, _size)
        for start in range(0, size, CHUNK_BYTES):
            end = min(size, start + CHUNK_BYTES)
            yield self._call(name, partial(_read, start=start, end=end), moves_bytes=end - start)

    def exists(self, name: str) -> bool:
        try:  # fs.exists says False of a store that can't be reached, too
            found: bool = self._call(name, lambda fs, path: fs.info(path)["type"] == "file")
        except FileNotFoundError:
            return False
        return found

    def names(self) -> list[str]:
        return self.names_in("")

    def names_in(self, folder: str) -> list[str]:
        try:
            found = self._call(folder, lambda fs, path: fs.ls(path, detail=False))
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rpartition("/")[2] for entry in found)
        itself = self.locate(folder).rpartition("/")[2]  # some stores have an object for a folder
        return [name for name in names if name != itself]

    def remove(self, name: str) -> None:
        try:
            self._call(name, lambda fs, path: fs.rm(path, recursive=True))
        except FileNotFoundError:
            return  # it is not there, or another process was at it too

    def move(self, folder: str, to: str) -> None:
        """Copy all of it within the store, then remove it."""
        for name in self.names_in(folder):
            old = f"{folder}/{name}"
            copy = partial(_copy, old=old, new=f"{to}/{name}")
            self._call(old, copy, moves_bytes=self._call(old, _size))
        self.remove(folder)

    def shares_disk(self, path: Path) -> bool:
        del path
        return False

    def _call(self, name: str, do: Callable[[Any, str], T], *, moves_bytes: int = 0) -> T:
        """Do it on a thread of its own, with the filesystem and the path of `name` in it, and wait
        for it no longer than its timeout. Raises FileNotFoundError, and StoreError for whatever
        else goes wrong: the many filesystems have no errors in common."""
        timeout_s = self._timeout_s + moves_bytes / SLOWEST_BYTES_PER_S
        future: Future[T] = Future()

        def work() -> None:
            try:
                fs, root = self._opened
                future.set_result(do(fs, f"{root}/{name}" if name else root))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name="object store", daemon=True).start()
        place = self.locate(name)
        try:
            return future.result(timeout_s)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place) from error
        except Exception as error:
            if not future.done():
                told = f"the store has not answered in {timeout_s:.0f} s"
                raise StoreError(errno.ETIMEDOUT, told, place) from None
            raise StoreError(errno.EIO, _told(error), place) from error


def _size(fs: Any, path: str) -> int:
    size: int = fs.info(path)["size"]
    return size


def _read(fs: Any, path: str, *, start: int, end: int) -> bytes:
    content: bytes = fs.cat_file(path, start=start, end=end)
    return content


def _copy(fs: Any, path: str, *, old: str, new: str) -> None:
    fs.cp_file(path, path.removesuffix(old) + new)


def _told(error: Exception) -> str:
    """What a store says, in one line."""
    text = " ".join(str(error).split())[:LONGEST_REASON].rstrip(".")
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}"


def check_url(url: str) -> None:
    """Raise ValueError, with the remedy, for a URL that this host can't open. Imports no package of
    a store, and reaches for nothing."""
    scheme, _, rest = url.partition("://")
    known = known_implementations.get(scheme)
    if not rest.strip("/"):
        raise ValueError(
            f"{url!r} names no bucket; give one, such as {scheme or 's3'}://bucket/run"
        )
    if scheme == "memory":
        raise ValueError(
            f"{url!r} is the memory of one process, and a job has several; give a path, or a URL"
            " such as s3://bucket/run"
        )
    if known is None and not _is_registered(scheme):
        raise ValueError(
            f"{url!r} is of a kind that fsspec does not know ({scheme}); give a path, or a URL such"
            " as s3://bucket/run"
        )
    package = "" if known is None else known["class"].partition(".")[0]
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{url!r} needs the package {package}, which is not installed here; pip install"
            f" {package}"
        )


def _is_registered(scheme: str) -> bool:
    """Whether an installed package has brought a filesystem for it."""
    try:
        get_filesystem_class(scheme)
    except (ValueError, ImportError):
        return False
    return scheme != ""  # for which fsspec takes local files
