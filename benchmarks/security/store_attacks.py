"""Attacks by way of the launcher's store, which asks nobody for a password.

Owns what is written there. Knows nothing of what a run makes of it.
"""

import contextlib
from datetime import timedelta
from pathlib import Path

from torch.distributed import DistNetworkError, TCPStore

from benchmarks.security.earlier import Earlier
from benchmarks.security.forged import Announced
from benchmarks.security.sight import Listening, Sight
from benchmarks.security.stranger import Means, Report

OURS = "loco/"  # where the job's keys are; the launcher's own are its own business
TIMEOUT = timedelta(seconds=10)
JUNK = (b"1", b"junk", b"\x00\xff" * 64, b"{}", b"tcp://127.0.0.1:1", b"[" * 2000, b"")
KEYS = ("loco/board", *(f"loco/card/{rank}" for rank in range(3)))
"""Those that can be known before there is a job."""
UNITS = '''"""What a stranger would have run: it only tells by whom it was run."""
import os
from pathlib import Path
from benchmarks.security.slept_units import build
Path({marker!r}).write_text(str(os.getuid()))
'''


def open_store(address: Listening) -> TCPStore:
    """Come in, as any rank does."""
    host, port = address
    return TCPStore(host, port, is_master=False, timeout=TIMEOUT, wait_for_workers=False)


def put(store: TCPStore, key: str, value: bytes) -> None:
    """Write, as anybody may."""
    store.set(key, value)  # type: ignore[arg-type]  # bytes are what it takes besides


def keys_of(store: TCPStore) -> list[str]:
    """The job's keys."""
    return [key for key in store.list_keys() if key.startswith(OURS)]


def run_keys(store: TCPStore, name: str) -> list[str]:
    """The keys of one kind, such as "place", of all runs."""
    return [key for key in keys_of(store) if f"/{name}/" in key]


def announcement_key(store: TCPStore) -> str:
    """Where the job is announced: in the longest value that has a configuration."""
    values = {key: bytes(store.get(key)) for key in keys_of(store)}
    found = [key for key, value in values.items() if b"model = " in value]
    return max(found, key=lambda key: len(values[key]), default=KEYS[0])


def forge_model(sight: Sight, means: Means) -> Report:
    """Have a reborn worker import a file of the stranger's."""
    units, marker = means.scratch / "units.py", means.scratch / "marker"
    units.write_text(UNITS.format(marker=str(marker)))
    units.chmod(0o644)
    store = open_store(sight.store)
    key = announcement_key(store)
    announced = Announced(store.get(key))
    forged = f"{units}:build".encode()
    changed = announced.raw.count(announced.model) if announced.model else 0
    put(store, key, announced.raw.replace(announced.model, forged) if changed else forged)
    means.armed()
    means.budget.over.wait()
    worked = [f"its code was run as user {marker.read_text()}"] if marker.exists() else []
    return {"worked": worked, "replaced": changed}


def forge_run_dir(sight: Sight, means: Means) -> Report:
    """Have a reborn worker make directories elsewhere."""
    place = means.scratch / "forged" / "run"
    store = open_store(sight.store)
    key = announcement_key(store)
    announced = Announced(store.get(key))
    found = announced.run_dir or sight.run_dir.encode()
    put(store, key, announced.raw.replace(found, str(place).encode()))
    means.armed()
    means.budget.over.wait()
    worked = [f"directories were made: {place}"] if place.exists() else []
    return {"worked": worked, "replaced": announced.raw.count(found)}


def replay_announcement(sight: Sight, means: Means) -> Report:
    """Announce an earlier run again, with its run id, directory and addresses."""
    earlier = Earlier.read(sight.earlier).store
    store = open_store(sight.store)
    key = announcement_key(store)
    name = key if key in earlier else max(earlier, key=lambda name: len(earlier[name]), default="")
    log = Path(Announced(earlier.get(name, b"")).run_dir.decode() or "/nowhere", "logs")
    before = _written(log)
    put(store, key, earlier.get(name, b"{}"))
    means.armed()
    means.budget.over.wait()
    worked = ["a worker joined the earlier run"] if _written(log) != before else []
    return {"worked": worked, "replayed_bytes": len(earlier.get(name, b""))}


def _written(directory: Path) -> int:
    """As far as a stranger can see."""
    with contextlib.suppress(PermissionError):
        return sum(path.stat().st_size for path in directory.glob("worker-*"))
    return 0


def set_finished(sight: Sight, means: Means) -> Report:
    """Say that the result is durable, long before it is."""
    store = open_store(sight.store)
    run_id = Announced(store.get(announcement_key(store))).fields.get("run_id", "0" * 16)
    put(store, f"{OURS}{run_id}/finished", b"1")
    means.budget.over.wait()
    return {"written": 1}


def junk_in_store(sight: Sight, means: Means) -> Report:
    """Write junk over every key of the job, again and again, to its end."""
    store, times = open_store(sight.store), 0
    while True:
        try:
            for key in sorted({*keys_of(store), *KEYS}):
                put(store, key, JUNK[times % len(JUNK)])
                times += 1
        except DistNetworkError:  # the launcher has ended, and its store with it
            return {"written": times}
        if not (means.budget.pay() and means.budget.rest(0.5)):
            return {"written": times}


def junk_before_the_job(sight: Sight, means: Means) -> Report:
    """Be there first: junk, in keys that the job has not set yet."""
    store = open_store(sight.store)
    for i, key in enumerate(KEYS):
        put(store, key, JUNK[i % len(JUNK)])
    means.budget.over.wait()
    return {"written": len(KEYS)}
