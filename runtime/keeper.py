"""The keeper: starts this rank's processes from a fork server, watches them, ends them.

Owns processes and exit codes. It imports no torch, so that a rank starts at once and stays small.
A process that dies ends the job: its traceback is shown, the others are ended, nothing is left.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from types import FrameType
from typing import Any

import msgpack

from runtime import entry
from runtime.lifetime import die_with_parent
from runtime.program import REFUSED, Meeting, Program

GRACE_S = 3.0
POLL_S = 0.5


@dataclass
class Child:
    """One process under a keeper's care, and what it has said through its pipe."""

    name: str
    process: ForkServerProcess
    pipe: Connection
    said: dict[str, Any] = field(default_factory=dict)

    def listen(self, timeout_s: float) -> None:
        """Take all that the child says, waiting for a first word at most that long."""
        try:
            while self.pipe.poll(timeout_s):
                self.said |= msgpack.unpackb(self.pipe.recv_bytes())
                timeout_s = 0
        except (EOFError, ConnectionError):
            self.process.join(timeout_s)  # it has ended, and says nothing more


class Interrupted(Exception):
    """The user or the launcher asked the job to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Keeper:
    """Keeps the worker of one rank under a launcher, or without one (`rank` None) all workers."""

    def __init__(self, program: Program, *, rank: int | None) -> None:
        self._program = program
        self._rank = rank
        self._speaks = rank in (None, 0)  # this rank has the coordinator, and talks to the user
        self._context = multiprocessing.get_context("forkserver")
        self._children: list[Child] = []
        self._memory = os.memfd_create("loco-rendezvous") if rank is None else -1

    def run(self) -> int:
        """Run to the end of the job and return the exit code: 0, 1, 2 (refused) or 128 + signal."""
        if self._rank is not None:
            die_with_parent()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        try:
            self._context.set_forkserver_preload(["runtime.fork_server", *self._program.preload])
            if self._speaks:
                self._start("coordinator", entry.coordinator)
            for rank in self._ranks():
                self._start(f"worker {rank}", entry.worker, rank, 0)
            return self._watch()
        except Interrupted as interrupt:
            self._ignore_signals()
            self._end_all()
            if self._speaks:
                name = signal.Signals(interrupt.number).name
                print(f"{self._program.name}: stopped by {name}", file=sys.stderr)
            return 128 + interrupt.number
        finally:
            self._end_all()
            if self._memory >= 0:
                os.close(self._memory)

    def _ranks(self) -> Sequence[int]:
        """The ranks whose workers this keeper starts; without a launcher the coordinator knows."""
        if self._rank is not None:
            return (self._rank,)
        (coordinator,) = self._children
        while coordinator.process.exitcode is None and "num_workers" not in coordinator.said:
            coordinator.listen(POLL_S)
        return range(coordinator.said.get("num_workers", 0))

    def _start(self, name: str, body: Callable[..., None], *arguments: Any) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=body, args=(self._program, self._meeting(), *arguments, theirs), name=name
        )
        process.start()
        theirs.close()
        self._children.append(Child(name=name, process=process, pipe=ours))

    def _meeting(self) -> Meeting:
        file = f"/proc/{os.getpid()}/fd/{self._memory}" if self._rank is None else None
        return Meeting(file=file)

    def _watch(self) -> int:
        """Wait until every child has ended well or one has not; never longer than a poll."""
        left = list(self._children)
        while left:
            multiprocessing.connection.wait([c.process.sentinel for c in left], timeout=POLL_S)
            for child in [c for c in left if c.process.exitcode is not None]:
                left.remove(child)
                if child.process.exitcode != 0:
                    return self._end_badly(child)
        return 0

    def _end_badly(self, child: Child) -> int:
        """End the job because of this child, and say why, below whatever the view has drawn."""
        code = child.process.exitcode
        assert code is not None
        self._ignore_signals()
        self._end_all()
        if code == REFUSED:
            return REFUSED  # the coordinator has said why
        print(
            f"{self._program.name}: {child.name} (pid {child.process.pid})"
            f" {_how_it_ended(code)}; the job is ended",
            file=sys.stderr,
        )
        child.listen(0)
        if "traceback" in child.said:
            print(child.said["traceback"].rstrip(), file=sys.stderr)
        return 1

    def _end_all(self) -> None:
        """End every child that still lives: ask, then kill. The coordinator, which draws, first."""
        for child in self._children:
            if child.process.exitcode is None:
                _signal(child, signal.SIGCONT)
                _signal(child, signal.SIGTERM)
        deadline_s = time.monotonic() + GRACE_S
        for child in self._children:
            child.process.join(max(0.0, deadline_s - time.monotonic()))
            if child.process.exitcode is None:
                _signal(child, signal.SIGKILL)
                child.process.join(GRACE_S)

    def _ignore_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise Interrupted(number)


def _signal(child: Child, number: signal.Signals) -> None:
    assert child.process.pid is not None
    with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
        os.kill(child.process.pid, number)


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"failed with exit code {code}"
