"""Attacks by another user of the host: on files, memory and unix sockets.

Owns what is tried. All of it is out of reach for whoever is not the run's user, whatever the umask.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from benchmarks.security import forged, zmtp
from benchmarks.security.connections import read, write
from benchmarks.security.sight import Sight
from benchmarks.security.store_attacks import announcement_key, open_store
from benchmarks.security.stranger import Means, Report

KEYS = ("~/.local/state/loco/key", "/root/.local/state/loco/key")
SOCKET_TIMEOUT_S = 0.5


def read_files(sight: Sight, means: Means) -> Report:
    """Read the run's files and memory, and write to them."""
    store = open_store(sight.store)
    announced = forged.Announced(store.get(announcement_key(store)))
    places = [Path(sight.run_dir), *(Path(key).expanduser() for key in KEYS), *_memory(store)]
    got = sorted({kind for place in places for kind in _tried(place)})
    means.budget.over.wait()
    got += sorted(set(_tried(Path(sight.run_dir))) - set(got))
    worked = [f"it may {', '.join(got)}"] if got else []
    return {"worked": worked, "announced_bytes": len(announced.raw)}


def _memory(store: object) -> Iterator[Path]:
    """The keeper's memory, wherever the store says that it lies."""
    for key in (f"loco/0/place/{k}" for k in range(3)):
        with contextlib.suppress(Exception):
            path = forged.Announced(store.get(key)).fields.get("memory")  # type: ignore[attr-defined]
            if path:
                yield Path(path)


def _tried(place: Path) -> Iterator[str]:
    """What may be done with a file, or with anything in a directory."""
    with contextlib.suppress(OSError):
        paths = [place, *place.rglob("*")]
        for path in paths:
            kind = "memory" if path.parts[:2] == ("/", "proc") else path.name or "run directory"
            kind = "the run directory" if path == Path(place) and path.is_dir() else kind
            if os.access(path, os.R_OK):
                yield f"read {kind}"
            if os.access(path, os.W_OK):
                yield f"write {kind}"


def join_ipc(sight: Sight, means: Means) -> Report:
    """Connect to every unix socket of the run, and hand in a result there."""
    result = [zmtp.frame(part, more=i == 0) for i, part in enumerate(forged.result(1))]
    answered = []
    for name in sight.ipc:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as opened:
            opened.settimeout(SOCKET_TIMEOUT_S)
            opened.connect(name.replace("@", "\0", 1) if name.startswith("@") else name)
            write(opened, [zmtp.opening("NULL", b"1/0"), *result], wait_s=SOCKET_TIMEOUT_S)
            if read(opened, zmtp.GREETING_BYTES):
                answered.append(name)
    means.budget.over.wait()
    worked = [f"{len(answered)} of {len(sight.ipc)} sockets answered"] if answered else []
    return {"worked": worked, "sockets": len(sight.ipc)}
