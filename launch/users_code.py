"""By what a run knows the code that its user named, and the torch that it ran with.

Owns which keys of a config name code. What that code imports in turn is not looked at.
"""

import importlib.util
from hashlib import blake2b
from pathlib import Path

from launch.config import ResolvedConfig, RunConfig
from models.data import LAYOUTS
from models.paths import absolute, is_file, reading
from models.plugins import is_dotted, users_code

CODE = ("model", "data", "views", "head", "objective", "optimizer")
DIGEST_BYTES = 8


class CodeChanged(Exception):
    """A file of the user's code is not as it was when the job began."""


def digests_of(config: RunConfig) -> str:
    """A digest of each file in which a key's code is, "model 2b1f…, head 90c3…"; of ours, and of
    what is in no file of its own, there is none. Raises ValueError if a file can't be read,
    UsersError if a package of the user's raises."""
    found = {name: _file(getattr(config, name), name) for name in CODE}
    return ", ".join(f"{name} {_digest(file)}" for name, file in found.items() if file is not None)


def refuse_other_code(config: ResolvedConfig) -> None:
    """Raise CodeChanged if what is here is not what a job began with: blocks would learn by
    different code, such as one whose worker has died since its file was edited."""
    if config.torch and (here := digests_of(config)) != config.code:
        raise CodeChanged(
            f"code has changed since the job began, or is another on this host"
            f" ({config.code or 'none'}; here {here or 'none'}); put it back and resume, or start"
            " with --fresh"
        )


def _file(name: str, what: str) -> Path | None:
    """The file that a name points into, if it does and there is one."""
    place = name.rpartition(":")[0]
    if not is_dotted(name) or name.partition(":")[0] in LAYOUTS:
        return None
    if place.endswith(".py"):
        return absolute(place)
    with users_code(f"importing the package of {what} {name!r}"):
        origin = _origin(place)
    return Path(origin) if origin and is_file(Path(origin)) else None


def _origin(module_name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module_name)
    except (ValueError, ModuleNotFoundError):  # without a spec, such as __main__; or not here
        return None
    return None if spec is None else spec.origin


def _digest(file: Path) -> str:
    with reading(file):
        return blake2b(file.read_bytes(), digest_size=DIGEST_BYTES).hexdigest()
