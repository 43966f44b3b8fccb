"""How the processes of a job find each other: a key-value store, opened in each of them.

Owns the keys. Under torchrun the store is the agent's TCPStore; without it a FileStore on memory
that the keeper owns. It holds addresses, the resolved config, and that the result is durable.
"""

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import DistStoreError, FileStore, PrefixStore, Store, TCPStore

from runtime.program import Meeting

STORE_TIMEOUT_S = 600.0
JOB_KEY = "job"
FINISHED_KEY = "finished"
RUN_DIR_KEY = "loco/run-dir"


class RendezvousError(Exception):
    """The other processes of the job did not turn up in time."""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What the coordinator tells every worker: the job, or that there is none.

    `no_job` is given if there is no job to run, and says how each worker is to end
    (runtime.program: DONE, REFUSED, NOT_STARTED). `resume` is the directory of the checkpoint to
    begin from, and `resume_step` its step; `recut` says that it was made with another cut.
    """

    no_job: int | None = None
    job_text: str = ""
    run_id: str = ""
    run_dir: str = ""
    coordinator: str = ""
    resume: str = ""
    resume_step: int = 0
    recut: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker is: `host` is equal for those that can share memory, and `memory` is the
    path there of what it has sent."""

    host: str
    memory: str


class Rendezvous:
    """The store, in which each attempt has keys of its own."""

    def __init__(self, store: Store, *, attempt: int, timeout_s: float = STORE_TIMEOUT_S) -> None:
        """`timeout_s`: how long to wait for another process."""
        self.attempt = attempt
        self._timeout_s = timeout_s
        self._lasting = store
        self._store = PrefixStore(f"loco/{attempt}", store)

    def announce(self, announcement: Announcement) -> None:
        """Tell every worker of this attempt."""
        self._store.set(JOB_KEY, json.dumps(vars(announcement)))

    def await_announcement(self) -> Announcement:
        """Wait for the coordinator. Raises RendezvousError after the timeout."""
        found: dict[str, Any] = json.loads(self._get(JOB_KEY))
        return Announcement(**found)

    def recall_announcement(self) -> Announcement | None:
        """What a coordinator of this attempt has announced, if one has."""
        return self.await_announcement() if self._store.check([JOB_KEY]) else None

    def mark_finished(self) -> None:
        """Let the workers go: the result is durable."""
        self._store.set(FINISHED_KEY, "1")

    @property
    def is_finished(self) -> bool:
        """Whether the result is durable."""
        finished: bool = self._store.check([FINISHED_KEY])
        return finished

    def publish_place(self, k: int, place: Place) -> None:
        """Say where worker k is."""
        self._store.set(f"place/{k}", json.dumps(vars(place)))

    def await_place(self, k: int) -> Place:
        """Wait for a worker's place. Raises RendezvousError after the timeout."""
        found: dict[str, str] = json.loads(self._get(f"place/{k}"))
        return Place(**found)

    def publish_edge(self, edge: int, address: str) -> None:
        """Say where the lower end of an edge listens."""
        self._store.set(f"edge/{edge}", address)

    def await_edge(self, edge: int) -> str:
        """Wait for an edge's address. Raises RendezvousError after the timeout."""
        return self._get(f"edge/{edge}")

    def find_edge(self, edge: int) -> str | None:
        """An edge's address, if it is known by now; does not wait."""
        return self.await_edge(edge) if self._store.check([f"edge/{edge}"]) else None

    def remember_run_dir(self, path: str) -> None:
        """Remember the run directory for a restart by the same launcher."""
        self._lasting.set(RUN_DIR_KEY, path)

    def recall_run_dir(self) -> str | None:
        """The directory of an attempt before this one, if there was one."""
        if self.attempt == 0 or not self._lasting.check([RUN_DIR_KEY]):
            return None
        path: bytes = self._lasting.get(RUN_DIR_KEY)
        return path.decode()

    def _get(self, key: str) -> str:
        try:
            self._store.wait([key], timedelta(seconds=self._timeout_s))
        except (RuntimeError, DistStoreError) as error:
            raise RendezvousError(
                f"nothing of {key!r} from the other processes in {self._timeout_s:.0f} s"
            ) from error
        value: bytes = self._store.get(key)
        return value.decode()


def open_rendezvous(
    meeting: Meeting, *, timeout_s: float, is_coordinator: bool = False
) -> Rendezvous:
    """Connect to the store; the number of this attempt is the launcher's. The rendezvous waits
    `timeout_s` for other processes."""
    store = open_store(meeting, is_coordinator=is_coordinator)
    attempt = 0 if meeting.file else int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return Rendezvous(store, attempt=attempt, timeout_s=timeout_s)


def open_store(meeting: Meeting, *, is_coordinator: bool = False) -> Store:
    """Make a connection of one's own; waits at most STORE_TIMEOUT_S for torchrun's store.

    If the launcher leaves the store to the ranks, the coordinator's process hosts it.
    """
    if meeting.file is not None:
        return FileStore(meeting.file, -1)
    launcher_hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "False") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=is_coordinator and not launcher_hosts,
        timeout=timedelta(seconds=STORE_TIMEOUT_S),
        wait_for_workers=False,
    )
