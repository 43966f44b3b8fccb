"""Attacks by another user of the host: on files, memory and unix sockets.

Owns what is tried. All of it is out of reach for whoever is not the run's user, whatever the umask.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from torch.distributed import TCPStore

from benchmarks.security import forged, zmtp
from benchmarks.security.connections import greet, write
from benchmarks.security.sight import Sight
from benchmarks.security.store_attacks import open_store, run_keys
from benchmarks.security.stranger import Means, Report

KEYS = ("~/.local/state/loco/key", "/root/.local/state/loco/key")
SOCKET_TIMEOUT_S = 0.5


def read_files(sight: Sight, means: Means) -> Report:
    """Read the run's files and memory, and write to them."""
    store = open_store(sight.store)
    places = [Path(sight.run_dir), *(Path(key).expanduser() for key in KEYS), *_memory(store)]
    got = {one for place in places for one in _tried(place)}
    means.budget.over.wait()
    got |= set(_tried(Path(sight.run_dir)))  # what was written since
    readable, writable = (sorted(path for what, path in got if what == mode) for mode in "rw")
    worked = [
        f"it may {verb} {len(paths)} files and directories, such as {paths[-1]}"
        for verb, paths in (("read", readable), ("write", writable))
        if paths
    ]
    return {"worked": worked, "tried": [str(place) for place in places]}


def _memory(store: TCPStore) -> Iterator[Path]:
    """The keeper's memory, wherever the store says that it lies."""
    for key in run_keys(store, "place"):
        with contextlib.suppress(Exception):
            path = forged.Announced(store.get(key)).fields.get("memory")
            if path:
                yield Path(path)


def _tried(place: Path) -> Iterator[tuple[str, str]]:
    """What may be done, "r" or "w", with a file, or with a directory and all within it."""
    with contextlib.suppress(OSError):
        for path in (place, *place.rglob("*")):
            for mode, asked in (("r", os.R_OK), ("w", os.W_OK)):
                if os.access(path, asked):
                    yield mode, str(path)


def join_ipc(sight: Sight, means: Means) -> Report:
    """Connect to every unix socket of the run, and hand in a result there."""
    parts = forged.result(1)
    result = [zmtp.frame(part, more=i + 1 < len(parts)) for i, part in enumerate(parts)]
    answered = []
    for name in sight.ipc:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as opened:
            opened.settimeout(SOCKET_TIMEOUT_S)
            opened.connect(name.replace("@", "\0", 1) if name.startswith("@") else name)
            if greet(opened, "NULL", b"1/0", wait_s=SOCKET_TIMEOUT_S):
                answered.append(name)
                write(opened, result, wait_s=SOCKET_TIMEOUT_S)
    means.budget.over.wait()
    worked = [f"{len(answered)} of {len(sight.ipc)} sockets answered"] if answered else []
    return {"worked": worked, "sockets": len(sight.ipc)}
