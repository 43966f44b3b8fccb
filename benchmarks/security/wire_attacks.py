"""Attacks by whoever hears the wire: what passed is noted, and said again.

Owns what is noted. To listen takes root here, so these stay who they are; they use nothing else of
root's.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.security.connections import connection, write
from benchmarks.security.earlier import Earlier, Wire, streams_of
from benchmarks.security.sight import Sight
from benchmarks.security.store_attacks import keys_of, open_store
from benchmarks.security.stranger import Means, Report

RECORDED_S = 2.0
SAID_EVERY_S = 0.1


def record_run(sight: Sight, means: Means) -> Report:
    """Change nothing: note the store and what passes on the wire, for those who come later."""
    streams = _listen(sight, means) or {}
    store = open_store(sight.store)
    found = {key: bytes(store.get(key)) for key in keys_of(store)}
    Earlier(store=found, streams=streams).write(Path(sight.earlier))
    means.budget.over.wait()
    return {"keys": len(found), "recorded": _sizes(streams)}


def replay_wire(sight: Sight, means: Means) -> Report:
    """Say again, to the same sockets, whole connections of this very run, handshake and all."""
    streams = _listen(sight, means)
    if streams is None:
        means.budget.over.wait()
        return {"not_made": "to listen on a wire takes root here"}
    seen, said = means.latest(), 0
    edges = [address for found in seen.edges.values() for address in found]
    targets = {"coordinator": seen.coordinator, "edge": edges}
    while any(streams.values()):
        for kind, addresses in targets.items():
            said += sum(_say(streams[kind], address) for address in addresses)
        if not (means.budget.pay() and means.budget.rest(SAID_EVERY_S)):
            break
    means.budget.over.wait()
    return {"said_connections": said, "recorded": _sizes(streams)}


def _say(streams: Sequence[bytes], address: tuple[str, int]) -> int:
    taken = 0
    for stream in streams:
        with connection(address) as opened:
            taken += opened is not None and write(opened, [stream], wait_s=0.2)
    return taken


def _sizes(streams: dict[str, list[bytes]]) -> dict[str, int]:
    return {kind: sum(map(len, parts)) for kind, parts in streams.items()}


def _listen(sight: Sight, means: Means) -> dict[str, list[bytes]] | None:
    """What is sent to the run's sockets from its beginning until it has gone on for a while;
    None where listening is not allowed."""
    try:
        wire = Wire()
    except PermissionError:
        wire = None

    whole_s: float | None = None

    def is_through() -> bool:
        """Whether the run has gone on for a while since it was seen whole."""
        nonlocal whole_s
        if whole_s is None and means.latest() is not sight:
            whole_s = time.monotonic()
        waited = whole_s is not None and time.monotonic() - whole_s > RECORDED_S
        return waited or means.budget.over.is_set()

    if wire is not None:
        wire.record(is_through)
    while not is_through():
        means.budget.rest(0.1)
    seen = means.latest()
    return None if wire is None else streams_of(wire, seen.coordinator, seen.edges)
