"""What a keeper must know of a job to start its processes; imports no torch.

Owns the description only: how the processes come by the job, and the place where they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from runtime.faults.plan import Fault
from runtime.state.status_page import MemoryPaths

if TYPE_CHECKING:
    from runtime.job import Job

# How a keeper's child ends, as it tells its keeper: user code can end a process with any exit code.
DONE = 0  # it has done all that it had to
REFUSED = 2  # the job was refused, and the coordinator has said why; the job's exit code too
FINAL = 3  # its failure would only repeat itself in another generation
NOT_STARTED = 4  # the job failed before it could begin, and the coordinator has said why
NOT_OURS = 5  # the job that was announced is not the one that this rank was started for
# The bodies of its children, by name: keeper, worker and coordinator don't import each other.
COORDINATOR = "runtime.coordinator.coordinator:run_coordinator"
WORKER = "runtime.worker.process:run_worker"
REGISTRAR = "runtime.membership.registrar:run_registrar"
TRACEBACK_CHARACTERS = 12_000  # a message that is written to a pipe as one


Facts = Mapping[str, Any]  # of a rank's machine, as msgpack and JSON can have them


class Tell(Protocol):
    """Takes the name of the phase that begins, or still goes on, such as "loading the data", and
    what it takes at most, if that is known, in seconds."""

    def __call__(self, phase: str, *, takes_s: float = 0.0) -> None: ...


def unheard(phase: str, *, takes_s: float = 0.0) -> None:
    """For a program that has no one to tell of its phases."""
    del phase, takes_s


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """How a run is resumed: the job's `text`, whether the network is cut otherwise now, and what
    the user should know."""

    text: str
    recut: bool = False
    notes: Sequence[str] = ()


def refuse_resume(old_toml: str, step: int, new_text: str) -> Resumption:
    """Of a program whose runs can't be resumed. Raises ValueError."""
    del old_toml, step, new_text
    raise ValueError("this program's runs can't be resumed; give another --run-dir")


@dataclass(frozen=True, kw_only=True)
class Program:
    """How a job's processes come by it; its callables are module-level, so they can travel.

    `resolve` runs once, in the coordinator. It is given the config.toml that its run directory
    holds, if it holds one, and the `facts` of all ranks, each found on its own host; None if all
    are known to be on this one. It tells which phase it is in; it raises ValueError for what a user
    got wrong, and its text is what `load` makes the job of in every process. `resume` compares the
    config of a checkpoint, and its step, with that text; it raises ValueError if the run can't be
    resumed with that config.
    `load` raises ValueError for the text of a job that this rank was not started for.
    `preload` are modules that the fork server imports once. `run_dir` is the user's wish; None
    makes a new one, and `fresh` starts over in one that holds a run; what is written there is this
    user's alone, unless `shares_run_dir`. `checkpoint_dir` is an absolute path or a URL; None is in
    the run directory. `secret` is what the job's processes know each other by. A rank of which
    nothing is heard for `rank_timeout_s` is lost, and the job with it.
    """

    resolve: Callable[[str | None, Tell, Sequence[Facts] | None], str]
    load: Callable[[str], Job]
    preload: tuple[str, ...]
    run_dir: str | None
    name: str
    run_name: str
    started_t: float  # unix seconds at which the command was given
    resume: Callable[[str, int, str], Resumption] = refuse_resume
    secret: bytes = field(default=b"", repr=False)
    checkpoint_dir: str | None = None
    fresh: bool = False
    shares_run_dir: bool = False
    hang_timeout_s: float = 60.0
    phase_timeout_s: float = 600.0  # of what a process does outside the steps
    max_worker_restarts: int = 3
    rank_timeout_s: float = 90.0
    facts: Callable[[], Facts] = dict
    faults: Sequence[Fault] = ()

    @property
    def patience_s(self) -> float:
        """How long one process waits for another before the steps: for all its generations."""
        return (self.max_worker_restarts + 2) * self.phase_timeout_s


@dataclass(frozen=True, kw_only=True)
class StoreAddress:
    """Where the job's key-value store is: a file on memory that the keeper owns, or TCPStore's host
    and port. `is_launchers`: the launcher hosts it; otherwise rank 0 does."""

    file: str | None = None
    host: str = ""
    port: int = 0
    is_launchers: bool = False


@dataclass(frozen=True, kw_only=True)
class Member:
    """The place of this process in a launcher's job of `num_ranks`, each of which runs a worker.

    `is_one_host`: all are on this host; None if the launcher does not say. `speaks_here`: what
    concerns this host is printed by this rank. `launcher` is equal for all attempts of one launcher
    on this host, and for no other's.
    """

    rank: int
    num_ranks: int
    store: StoreAddress
    is_one_host: bool | None
    speaks_here: bool = True
    launcher: str = ""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where a job's processes meet, and how they know each other.

    `member` is None if no launcher runs the job: then one keeper has all of its processes. `nonce`
    is drawn by each keeper at its start. `directory` is its own, which only this user can enter,
    for sockets; other sockets listen at `address`, a numeric one of this host.
    """

    store: StoreAddress
    keeper_pid: int
    secret: bytes = field(default=b"", repr=False)
    nonce: str = ""
    member: Member | None = None
    directory: str = ""
    address: str = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Which generation of a process this is, why the one before ended, and what was stored for it.

    `detected_t` (unix seconds) is when its keeper saw that end, and `hung_in` the phase in which it
    was taken to hang, if it was. `known` is what the one before had found in the rendezvous. The
    coordinator has no memory.
    """

    generation: int = 0
    cause: str = ""
    detected_t: float = 0.0
    hung_in: str = ""
    known: Mapping[str, bytes] = field(default_factory=dict)
    memory: MemoryPaths | None = None
