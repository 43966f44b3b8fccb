"""The secret that a job's processes share, and by which they tell each other from strangers.

Owns where it lies and who may read it. Standard library only: every rank reads it before it does
anything.
"""

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

KEY_BYTES = 32
LEAST_BYTES = 16
MOST_BYTES = 4096
HOW_TO_MAKE = "make one with: (umask 077; openssl rand -hex 32 > job.key)"


class BadSecret(ValueError):
    """A secret that can't be read, or that others can read; the message says what to do."""


def read_secret(path: Path) -> bytes:
    """The secret in a file of one's own that nobody else can read, as ssh wants it.

    Raises BadSecret.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe waits
            found = os.fstat(file.fileno())
            _check_access(path, found)
            secret = file.read(MOST_BYTES + 1).strip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadSecret(f"secret file {str(path)!r} can't be read ({reason}); {HOW_TO_MAKE}") from (
            error
        )
    if not LEAST_BYTES <= len(secret) <= MOST_BYTES:
        raise BadSecret(
            f"secret file {str(path)!r} holds {len(secret)} bytes, not {LEAST_BYTES} to"
            f" {MOST_BYTES}; {HOW_TO_MAKE}"
        )
    return secret


def _check_access(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise BadSecret(f"secret file {str(path)!r} is no plain file; {HOW_TO_MAKE}")
    if found.st_uid not in (0, os.geteuid()):
        raise BadSecret(
            f"secret file {str(path)!r} belongs to user {found.st_uid}; use one of your own"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise BadSecret(
            f"secret file {str(path)!r} can be read by others (mode {mode:04o}); chmod 600 {path}"
        )


def users_secret(environ: Mapping[str, str] = os.environ) -> bytes:
    """This user's own secret on this host, made by whichever process comes first.

    It lies in loco/key in the user's state directory, or without a home in a private directory
    among the temporary files. Raises BadSecret.
    """
    key = _directory(environ) / "key"
    if not key.exists():
        _make(key)
    return read_secret(key)


def _directory(environ: Mapping[str, str]) -> Path:
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if not state and home:
        state = str(Path(home, ".local", "state"))
    if state:
        with contextlib.suppress(OSError):  # a home that can't be written
            return _private(Path(state, "loco"))
    path = Path(tempfile.gettempdir(), f"loco-of-user-{os.geteuid()}")
    try:
        return _private(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadSecret(
            f"no directory for this user's key: {path} can't be made ({reason}); set"
            " XDG_STATE_HOME to a directory of your own"
        ) from error


def _private(path: Path) -> Path:
    """A directory of one's own that nobody else can enter. Raises OSError, BadSecret."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise BadSecret(
            f"{path} is no directory of this user's; remove it, or set XDG_STATE_HOME to a"
            " directory of your own"
        )
    if found.st_mode & 0o077:
        path.chmod(0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, "permission denied", str(path))
    return path


def _make(key: Path) -> None:
    """Write a key that appears whole; who comes second leaves it as it is."""
    mine = key.with_name(f"key-{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(mine, key)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadSecret(
            f"this user's key {str(key)!r} can't be made ({reason}); give --secret-file, or set"
            " XDG_STATE_HOME to a directory that can be written"
        ) from error
    finally:
        mine.unlink(missing_ok=True)
