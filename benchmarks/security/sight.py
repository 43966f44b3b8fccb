"""What a run looks like from outside: its processes, and where they listen.

Owns finding them, as `ss -p` does, in /proc. Strangers are given what they'd find by trying: the
ports. Knows nothing of attacks.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

Listening = tuple[str, int]
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a stranger is told. Addresses are host and port; `edges` are by block; `ipc` are the
    names of unix sockets, abstract ones with an @."""

    store: Listening
    coordinator: tuple[Listening, ...] = ()
    edges: Mapping[int, tuple[Listening, ...]] = field(default_factory=dict)
    ipc: tuple[str, ...] = ()
    run_dir: str = ""
    earlier: str = ""  # file of an earlier run's recording, see benchmarks.security.earlier

    @property
    def targets(self) -> list[Listening]:
        """All tcp sockets of the run itself; the launcher's store is not its own."""
        edges = (address for found in self.edges.values() for address in found)
        return [*self.coordinator, *edges]

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Sight":
        found = json.loads(text)
        found["store"] = tuple(found["store"])
        found["coordinator"] = tuple(map(tuple, found["coordinator"]))
        found["edges"] = {int(k): tuple(map(tuple, v)) for k, v in found["edges"].items()}
        found["ipc"] = tuple(found["ipc"])
        return cls(**found)


def find_store(ranks: Iterable[psutil.Process]) -> Listening | None:
    """Where the launcher's store is, as it tells its ranks; None before there is a rank."""
    for process in ranks:
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if "MASTER_PORT" in environment and "RANK" in environment:
                return environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    return None


def look(
    processes: Iterable[psutil.Process],
    workers: Mapping[int, int],
    *,
    launcher: int,
    store: Listening,
    run_dir: Path,
    earlier: str = "",
) -> Sight:
    """See a run that goes on. `workers` are process ids by block."""
    blocks = {pid: block for block, pid in workers.items()}
    coordinator: set[Listening] = set()
    edges: dict[int, tuple[Listening, ...]] = {}
    ipc: set[str] = set()
    for process in processes:
        found = listening(process)
        if process.pid in blocks:
            if found:
                edges[blocks[process.pid]] = tuple(sorted(found))
        elif process.pid != launcher:
            coordinator |= found
        ipc |= unix_names(process)
    return Sight(
        store=store,
        coordinator=tuple(sorted(coordinator - {store})),
        edges=edges,
        ipc=tuple(sorted(ipc)),
        run_dir=str(run_dir),
        earlier=earlier,
    )


def listening(process: psutil.Process) -> set[Listening]:
    """The tcp addresses at which a process listens; where that is all of them, loopback."""
    with contextlib.suppress(psutil.Error):
        return {
            (ANY.get(c.laddr.ip, c.laddr.ip), c.laddr.port)
            for c in process.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        }
    return set()


def listening_beyond_loopback(process: psutil.Process) -> list[str]:
    """The tcp addresses at which a process listens for other hosts."""
    with contextlib.suppress(psutil.Error):
        return [
            f"{c.laddr.ip}:{c.laddr.port}"
            for c in process.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.laddr.ip not in ("127.0.0.1", "::1")
        ]
    return []


def unix_names(process: psutil.Process) -> set[str]:
    """The names of a process's unix sockets; one that has none can't be reached."""
    with contextlib.suppress(psutil.Error):
        names = {str(c.laddr) for c in process.net_connections("unix") if c.laddr}
        return {name.replace("\0", "@") for name in names}
    return set()
