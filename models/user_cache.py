"""The user's cache directory, where this project keeps what it can make again."""

import os
from pathlib import Path

PROJECT = "loco-runtime"


class NoHome(Exception):
    """This user has neither a home directory nor XDG_CACHE_HOME."""


def user_cache(folder: str) -> Path:
    """A folder below XDG_CACHE_HOME, or ~/.cache; it need not exist yet. Raises NoHome."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        root = base if base.is_absolute() else Path("~/.cache").expanduser()
    except RuntimeError as error:
        raise NoHome("this user has no home directory") from error
    return root / PROJECT / folder
