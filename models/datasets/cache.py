"""Images that are decoded once, into a file that every process maps into its memory.

Owns the files in the user's cache directory: their names, that they are whole, and that two
processes don't write the same one. Knows nothing of what is decoded.

A file is written under another name and renamed when it is whole, so an interrupted process leaves
a part that the next one overwrites. Whoever writes holds a lock on the part, of which the kernel
lets go when the process ends.

Shapes: N images, C channels, H height, W width.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from models import host_memory
from models.datasets.progress import Progress
from models.tell import Tell
from models.user_cache import NoHome, user_cache

SHARE_OF_MEMORY = 0.25  # of what is available, that a set may take and still be held in memory
POLL_S = 0.2
STALLED_S = 120.0  # without progress of the process that writes
FLUSHED_BYTES = 256 << 20  # between two signs of progress, in whole pages
NO_ROOM = (  # of a disk that is full, a directory that can't be had, and one without locks
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP),
)

Shape = tuple[int, int, int, int]
Fill = Callable[[np.ndarray, Progress], None]  # writes all of the images (N, C, H, W) uint8
Prepare = Callable[[Progress], tuple[Shape, Fill]]


def fits_in_memory(shape: Shape) -> bool:
    """Whether a set of uint8 images is small beside the memory that is available now."""
    return _num_bytes(shape) <= SHARE_OF_MEMORY * host_memory.available_bytes()


def in_memory(prepare: Prepare, *, what: str, tell: Tell) -> Tensor | None:
    """Decode images into this process's memory; None if they are too large for it. `what` names
    them where progress is told."""
    progress = Progress(what, tell)
    shape, fill = prepare(progress)
    if not fits_in_memory(shape):
        return None
    images_NCHW = np.empty(shape, dtype=np.uint8)
    progress.begin("decoding", shape[0])
    fill(images_NCHW, progress)
    return torch.from_numpy(images_NCHW)


def mapped(prepare: Prepare, *, place: str, content: str, what: str, tell: Tell) -> Tensor:
    """Map images from the cache; those that are not there are decoded into it first.

    `place` says where they come from and how they are decoded, `content` which they are: when the
    content of a place has changed, the file of the old one is removed. `prepare` is called if they
    must be decoded, and returns their shape and what writes them. Raises NoRoom if the disk can't
    take them or nothing can be written there.
    """
    try:
        folder = directory()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{_stem(what, place)}-{_digest(content)}.npy"
        images = _map(file)
        if images is None:
            with _writing(file, what, tell) as part:
                if part is not None:
                    _write(part, prepare, Progress(what, tell, part))
                    part.replace(file)
                    _forget(folder, _stem(what, place), file)
            images = _map(file)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise NoRoom(f"{error.filename or folder}: {(error.strerror or '').lower()}") from error
    if images is None:
        raise ValueError(f"{file} was removed while it was being read; start again")
    return images


class NoRoom(Exception):
    """The cache can't take the images: the disk is full, or the directory can't be written to."""


def too_large(error: NoRoom, otherwise: str) -> ValueError:
    """What to say of images that neither memory nor cache can take, and what to do."""
    return ValueError(
        f"the images are too large to hold in memory, and the cache can't take them ({error}); make"
        f" room there, name another directory by XDG_CACHE_HOME, or {otherwise}"
    )


def directory() -> Path:
    """Where decoded images are. Raises NoRoom without a home."""
    try:
        return user_cache("images")
    except NoHome as error:
        raise NoRoom(str(error)) from error


def _map(file: Path) -> Tensor | None:
    """The images of a file, read-only; None if there is none."""
    try:
        images_NCHW = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (
        ValueError,
        EOFError,
    ):  # no process of ours leaves it so: a disk or a user has cut it short
        file.unlink(missing_ok=True)
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it can't be written to: nothing here does
        return torch.from_numpy(images_NCHW)


@contextmanager
def _writing(file: Path, what: str, tell: Tell) -> Iterator[Path | None]:
    """The part to write, under its lock; None if another process has written the file meanwhile."""
    part = file.with_suffix(".part")
    opened = _locked(part, what, tell)
    try:
        yield None if file.exists() else part
    finally:
        if _is_there(opened, part):
            part.unlink()
        opened.close()


def _locked(part: Path, what: str, tell: Tell) -> BinaryIO:
    """Open a part, and lock it as soon as nobody else does."""
    seen, since_s = 0.0, time.monotonic()
    while True:
        opened = part.open("ab")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            at = os.fstat(opened.fileno()).st_mtime
            opened.close()
            if at != seen:
                seen, since_s = at, time.monotonic()
                tell(f"waiting for the process that decodes the images of {what}")
            if time.monotonic() - since_s > STALLED_S:
                raise ValueError(
                    f"another process decodes the images of {what} into {part}, and has made no"
                    f" progress for {STALLED_S:.0f} s; end it"
                ) from None
            time.sleep(POLL_S)
            continue
        if _is_there(opened, part):
            return opened
        opened.close()  # it was renamed or removed while this process waited for it


def _is_there(opened: BinaryIO, part: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), part.stat())
    except FileNotFoundError:
        return False


def _write(part: Path, prepare: Prepare, progress: Progress) -> None:
    """Fill a part, for which all room is taken before: a full disk would end the process with a
    signal, were it found by writing to mapped memory."""
    shape, fill = prepare(progress)
    images_NCHW = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    with part.open("rb+") as opened:
        os.posix_fallocate(opened.fileno(), 0, opened.seek(0, os.SEEK_END))
    progress.begin("decoding", shape[0])
    fill(images_NCHW, progress)
    _flush(images_NCHW, progress)


def _flush(images_NCHW: np.memmap, progress: Progress) -> None:
    """Have all of a part on the disk, piece by piece: as one it may take longer than others wait
    for a process that shows no progress."""
    pages, num_images = images_NCHW.base, len(images_NCHW)
    assert isinstance(pages, mmap.mmap), "the whole file is mapped"
    progress.begin("writing", num_images)
    for begin in range(0, len(pages), FLUSHED_BYTES):
        end = min(begin + FLUSHED_BYTES, len(pages))
        pages.flush(begin, end - begin)
        progress.advance(num_images * end // len(pages) - num_images * begin // len(pages))


def _forget(folder: Path, stem: str, newest: Path) -> None:
    """Remove what the same place held before, and parts of it that nobody writes any more; those
    who have a file mapped keep it."""
    for file in folder.glob(f"{stem}-*.npy"):
        if file != newest:
            file.unlink(missing_ok=True)
    for part in folder.glob(f"{stem}-*.part"):
        with suppress(FileNotFoundError, BlockingIOError), part.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _stem(what: str, place: str) -> str:
    """What the files of a place have in common in their names."""
    readable = re.sub(r"[^\w.-]", "_", Path(what).name) or "images"
    return f"{readable[:40]}-{_digest(place)}"


def _num_bytes(shape: Shape) -> int:
    num, channels, height, width = shape
    return num * channels * height * width


def _digest(text: str) -> str:
    """Of names that may be no UTF-8."""
    return hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()
