"""How the processes of a job find each other: a key-value store, opened in each of them.

Owns the keys, and whom to believe. Under torchrun the store is the agent's TCPStore, which anyone
who reaches its port can read and write; without it a FileStore on memory that the keeper owns. It
holds addresses, the resolved config, and that the result is durable, each sealed by a key that the
job's secret gives (runtime.trust). What is not sealed by it is as good as not there.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from torch.distributed import DistStoreError, FileStore, PrefixStore, Store, TCPStore

from runtime.program import Meeting
from runtime.trust.keys import RunKeys, rendezvous_key
from runtime.trust.sealing import seal, unseal

log = logging.getLogger(__name__)

STORE_TIMEOUT_S = 600.0
LOOK_EVERY_S = 0.02
LOOK_AGAIN_S = 0.2  # if what lies there is not this job's
READ_TIMEOUT_S = 5.0
TOLD_AFTER_S = 2.0
REFUSAL_TIMEOUT_S = 30.0  # for the ranks that are to hear that there is no job
STARTED = 19  # of the fields of /proc/PID/stat behind the name
REMEDY = "start all hosts with the same --secret-file"
JOB_KEY = "job"
FINISHED_KEY = "finished"
RUN_DIR_KEY = "loco/run-dir"


class RendezvousError(Exception):
    """The other processes of the job did not turn up in time."""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What the coordinator tells every worker: the job, or that there is none.

    `no_job` is given if there is no job to run, and says how each worker is to end
    (runtime.program: DONE, REFUSED, NOT_STARTED). `checkpoint_dir` is where checkpoints are (a path
    or URL), `resume` the name there of the one to begin from, and `resume_step` its step; `recut`
    says that it was made with another cut. It is for the keepers whose `nonces` it has: to others
    it is one of an earlier job.
    """

    no_job: int | None = None
    job_text: str = ""
    run_id: str = ""
    run_dir: str = ""
    checkpoint_dir: str = ""
    coordinator: str = ""
    resume: str = ""
    resume_step: int = 0
    recut: bool = False
    nonces: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker is: `host` is equal for those that can share memory, and `memory` is the
    path there of what it has sent."""

    host: str
    memory: str


class Rendezvous:
    """The store, in which each attempt has keys of its own.

    `known` is what this process, or a generation before it, has found to be sealed by this job, by
    key: it holds if someone has written over it. Until there is a run, keys are the secret's own,
    and behind an announcement those of its run.
    """

    def __init__(
        self,
        store: Store,
        *,
        secret: bytes,
        nonce: str = "",
        num_ranks: int | None = None,
        attempt: int = 0,
        launcher: str = "",
        known: Mapping[str, bytes] | None = None,
        timeout_s: float = STORE_TIMEOUT_S,
    ) -> None:
        """`nonce` is this process's keeper's, of which a launcher has `num_ranks`. `launcher` is
        equal for all attempts of a launcher and for no other's. `timeout_s`: how long to wait for
        another process."""
        self.attempt = attempt
        self.known = dict(known or {})
        self._nonce = nonce
        self._num_ranks = num_ranks
        self._timeout_s = timeout_s
        self._secret = secret
        self._first_key = rendezvous_key(secret)
        self._run_key: bytes | None = None
        self._run_dir_name = f"{RUN_DIR_KEY} of {launcher}"
        store.set_timeout(timedelta(seconds=READ_TIMEOUT_S))  # of what is deleted meanwhile
        self._lasting = store
        self._store = PrefixStore(f"loco/{attempt}", store)

    # Before there is a run --------------------------------------------------------------------

    def publish_nonce(self, rank: int) -> None:
        """Say, for a rank's keeper, that it is there; its nonce makes an announcement its own."""
        self._set(f"nonce/{rank}", self._nonce)

    def announce(self, announcement: Announcement) -> Announcement:
        """Tell every worker of this attempt, when all ranks are there; that there is no job, those
        that are there soon. Returns what is told. Raises RendezvousError if one does not come to a
        job."""
        nonces = (
            [self._nonce]
            if self._num_ranks is None
            else self._await_nonces(self._num_ranks, is_needed=announcement.no_job is None)
        )
        announcement = replace(announcement, nonces=tuple(nonces))
        self._set(JOB_KEY, json.dumps(vars(announcement)))
        self._begin(announcement)
        return announcement

    def _await_nonces(self, num_ranks: int, *, is_needed: bool) -> list[str]:
        timeout_s = self._timeout_s if is_needed else min(REFUSAL_TIMEOUT_S, self._timeout_s)
        deadline_s = time.monotonic() + timeout_s
        found = []
        for rank in range(num_ranks):
            try:
                found.append(self._get(f"nonce/{rank}", timeout_s=deadline_s - time.monotonic()))
            except RendezvousError:
                if is_needed:
                    raise
        return found

    def await_announcement(self) -> Announcement:
        """Wait for the coordinator. Raises RendezvousError after the timeout."""
        found = _announcement(self._get(JOB_KEY, is_meant=self._is_for_us))
        self._begin(found)
        return found

    def recall_announcement(self) -> Announcement | None:
        """What a coordinator of this attempt has announced, if one has."""
        text = self._find(JOB_KEY, is_meant=self._is_for_us)
        if text is None:
            return None
        found = _announcement(text)
        self._begin(found)
        return found

    def _is_for_us(self, text: str) -> bool:
        return self._nonce in _announcement(text).nonces

    def _begin(self, announcement: Announcement) -> None:
        if announcement.no_job is None:
            self._run_key = RunKeys(self._secret, announcement.run_id).sealing

    # In a run ---------------------------------------------------------------------------------

    def mark_finished(self) -> None:
        """Say, to whoever begins after the coordinator has left, that the result is durable."""
        self._set(FINISHED_KEY, "1")

    @property
    def is_finished(self) -> bool:
        """Whether the result is durable."""
        return self._run_key is not None and self._find(FINISHED_KEY) is not None

    def publish_coordinator(self, address: str) -> None:
        """Say that the coordinator listens elsewhere than was announced."""
        self._set("coordinator", address)

    def find_coordinator(self) -> str | None:
        """Where the coordinator listens now, if it is not where it was announced; does not wait."""
        return self._find("coordinator")

    def publish_place(self, block_index: int, place: Place) -> None:
        """Say where worker k is."""
        self._set(f"place/{block_index}", json.dumps(vars(place)))

    def await_place(self, block_index: int) -> Place:
        """Wait for a worker's place. Raises RendezvousError after the timeout."""
        found: dict[str, str] = json.loads(self._get(f"place/{block_index}"))
        return Place(**found)

    def publish_edge(self, edge: int, address: str) -> None:
        """Say where the lower end of an edge listens."""
        self._set(f"edge/{edge}", address)

    def await_edge(self, edge: int) -> str:
        """Wait for an edge's address. Raises RendezvousError after the timeout."""
        return self._get(f"edge/{edge}")

    def find_edge(self, edge: int) -> str | None:
        """An edge's address, if it is known by now; does not wait."""
        return self._find(f"edge/{edge}")

    # Between attempts -------------------------------------------------------------------------

    def remember_run_dir(self, path: str) -> None:
        """Remember the run directory for a restart by the same launcher."""
        self._lasting.set(RUN_DIR_KEY, seal(self._first_key, self._run_dir_name, path).decode())

    def recall_run_dir(self) -> str | None:
        """The directory of an attempt before this one, if there was one."""
        if self.attempt == 0 or not self._lasting.check([RUN_DIR_KEY]):
            return None
        path = unseal(self._first_key, self._run_dir_name, self._lasting.get(RUN_DIR_KEY))
        if path is None:
            log.warning("the run directory of the attempt before is not told by this launcher")
        return path

    # Sealed values ----------------------------------------------------------------------------

    def _key_of(self, key: str) -> bytes:
        """What seals a value: the secret itself, for what is said before there is a run."""
        if key == JOB_KEY or key.startswith("nonce/"):
            return self._first_key
        assert self._run_key is not None, f"{key} before there is a run"
        return self._run_key

    def _name_of(self, key: str) -> str:
        return f"{self.attempt}/{key}"

    def _set(self, key: str, text: str) -> None:
        sealed = seal(self._key_of(key), self._name_of(key), text)
        self.known[key] = sealed
        self._store.set(key, sealed.decode())

    def _find(self, key: str, *, is_meant: Callable[[str], bool] = bool) -> str | None:
        """The text of a key: what lies there if it is sealed by this job and `is_meant`; else what
        is known of it."""
        for sealed in (self._read(key), self.known.get(key)):
            if sealed is None:
                continue
            text = unseal(self._key_of(key), self._name_of(key), sealed)
            if text is not None and is_meant(text):
                self.known[key] = sealed
                return text
        return None

    def _read(self, key: str) -> bytes | None:
        """What lies at a key; None if nothing does. It may be deleted while it is read."""
        try:
            found: bytes | None = self._store.get(key) if self._store.check([key]) else None
        except (RuntimeError, DistStoreError) as error:
            log.warning("the store does not give %r: %s", key, error)
            return None
        return found

    def _get(
        self, key: str, *, is_meant: Callable[[str], bool] = bool, timeout_s: float | None = None
    ) -> str:
        """The text of a key, waited for. Raises RendezvousError."""
        deadline_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        began_s, told = time.monotonic(), False
        while (text := self._find(key, is_meant=is_meant)) is None:
            is_foreign = self._store.check([key])
            waited_s = time.monotonic() - began_s
            if time.monotonic() > deadline_s:
                raise RendezvousError(self._nothing_of(key, waited_s, is_foreign=is_foreign))
            if is_foreign and not told and waited_s > TOLD_AFTER_S:
                told = True
                log.warning("%s; waiting for one that is: %s", _foreign(key), REMEDY)
            time.sleep(LOOK_AGAIN_S if is_foreign else LOOK_EVERY_S)
        return text

    def _nothing_of(self, key: str, waited_s: float, *, is_foreign: bool) -> str:
        if is_foreign:
            return f"{_foreign(key)}; {REMEDY}"
        return f"nothing of {key!r} from the other processes in {waited_s:.0f} s"


def _foreign(key: str) -> str:
    return (
        f"what the store has of {key!r} is not sealed by this job's secret, or is an earlier job's"
    )


def _announcement(text: str) -> Announcement:
    found: dict[str, Any] = json.loads(text)
    return Announcement(**found | {"nonces": tuple(found["nonces"])})


def open_rendezvous(
    meeting: Meeting,
    *,
    timeout_s: float,
    known: Mapping[str, bytes] | None = None,
    is_coordinator: bool = False,
) -> Rendezvous:
    """Connect to the store; the number of this attempt is the launcher's. The rendezvous waits
    `timeout_s` for other processes."""
    store = open_store(meeting, is_coordinator=is_coordinator)
    attempt = 0 if meeting.file else int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return Rendezvous(
        store,
        secret=meeting.secret,
        nonce=meeting.nonce,
        num_ranks=meeting.num_ranks,
        attempt=attempt,
        launcher="" if meeting.file else _launcher(meeting.keeper_pid),
        known=known,
        timeout_s=timeout_s,
    )


def _launcher(keeper_pid: int) -> str:
    """The process that has started this rank, which starts the next attempt too."""
    agent = psutil.Process(keeper_pid).parent()
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if agent is None:
        return run_id
    # In ticks since the boot: by the clock it would change when that is set.
    _, _, facts = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")
    return f"{run_id} {agent.pid} {facts.split()[STARTED]}"


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
