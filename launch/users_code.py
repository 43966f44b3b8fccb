"""By what a run knows the code that its user named, and the torch that it ran with.

Owns which keys of a config name code. What that code imports in turn is not looked at.
"""

import importlib.util
from hashlib import blake2b
from pathlib import Path

from launch.config import RunConfig
from models.data import LAYOUTS
from models.paths import absolute, reading
from models.plugins import is_dotted, users_code

CODE = ("model", "data", "views", "head", "objective", "optimizer")
DIGEST_BYTES = 8


def digests_of(config: RunConfig) -> str:
    """A digest of each file in which a key's code is, "model 2b1f…, head 90c3…"; of ours there is
    none. Raises ValueError if a file can't be read, UsersError if a package of the user's raises.
    """
    found = {name: _file(getattr(config, name), name) for name in CODE}
    return ", ".join(f"{name} {_digest(file)}" for name, file in found.items() if file is not None)


def _file(name: str, what: str) -> Path | None:
    """The file that a name points into, if it does and there is one."""
    place = name.rpartition(":")[0]
    if not is_dotted(name) or name.partition(":")[0] in LAYOUTS:
        return None
    if place.endswith(".py"):
        return absolute(place)
    try:
        with users_code(f"importing the package of {what} {name!r}"):
            spec = importlib.util.find_spec(place)
    except ValueError:  # a module without a spec, such as __main__
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _digest(file: Path) -> str:
    with reading(file):
        return blake2b(file.read_bytes(), digest_size=DIGEST_BYTES).hexdigest()
