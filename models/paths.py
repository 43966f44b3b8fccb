"""Paths that a user gave: what they stand for, and whether something is there.

Owns what is said of a path that can't be looked at or read. Knows nothing of what lies there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError over a path into a ValueError that names it."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{path} can't be read: {reason}; check it and its permissions") from error


def is_file(path: Path) -> bool:
    """Whether a file is there. Raises ValueError if that can't be told, where Path.is_file raises
    OSError: in a folder that may not be entered, or on a disk that does not answer."""
    with reading(path):
        return path.is_file()


def is_folder(path: Path) -> bool:
    """Whether a folder is there. Raises ValueError if that can't be told."""
    with reading(path):
        return path.is_dir()


def absolute(given: str) -> Path:
    """The absolute path that a user means. Raises ValueError if it begins with the home directory
    of nobody."""
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(
            f"{given!r} begins with a home directory that is not known here; give the path in full"
        ) from error
