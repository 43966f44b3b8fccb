"""Carries out the faults of a plan in one worker, each once in a run.

Owns when and how a process is hurt; faulty_link.py does the same to what it sends. What has fired
stands in the run's faults.jsonl before it happens, so that no later generation fires it again.
"""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import psutil

from runtime.core.messages import Phase
from runtime.core.plan import Side
from runtime.faults.faulty_link import FaultyLink
from runtime.faults.log import FaultLog
from runtime.faults.plan import Fault
from runtime.links.link import Link

FOR_EVER_S = 10**8
OOM_BYTES = 1 << 40


class InjectedFault(Exception):
    """The exception that the fault `exit` raises."""


class Injector:
    """Worker k's faults. If there are none, every call returns at once."""

    def __init__(
        self, faults: Sequence[Fault], block_index: int, log: FaultLog, *, keeper_pid: int
    ) -> None:
        self._block_index = block_index
        self._log = log
        self._keeper_pid = keeper_pid
        self._links = [f for f in faults if f.edge is not None and block_index in f.edge]
        is_lowest = block_index == 0
        own = [f for f in faults if f.block == block_index or (f.kind == "job-kill" and is_lowest)]
        self._at_steps = [f for f in own if f.kind in _DEEDS]
        self._slow = [f for f in own if f.kind == "slow"]
        self._at_snapshots = [f for f in own if f.kind == "kill-snapshotting"]
        self._at_checkpoints = [f for f in own if f.kind == "kill-checkpointing"]
        self._at_starts = [f for f in own if f.kind == "kill-restarting"]
        self._zombies = [f for f in own if f.kind == "zombie"]
        self._spins = False

    def wrap(self, links: Mapping[Side, Link]) -> dict[Side, Link]:
        """The links, with the faults of their edges."""
        wrapped: dict[Side, Link] = {}
        for side, link in links.items():
            other = self._block_index + (1 if side is Side.ABOVE else -1)
            faults = [f for f in self._links if f.edge is not None and other in f.edge]
            zombies = [f for f in self._zombies if self._log.has_fired(str(f))]
            wrapped[side] = link
            if faults or zombies:
                wrapped[side] = FaultyLink(
                    link, faults, zombies, sends=(self._block_index, other), claim=self._log.claim
                )
        return wrapped

    def starting(self) -> None:
        """A new generation has its snapshot and has not linked yet."""
        for fault in self._at_starts:
            if self._log.has_fired(str(fault)) and self._log.claim(f"{fault} again"):
                _kill_self()

    def begin(self, phase: Phase, step: int) -> None:
        """A phase begins, on the compute thread."""
        if phase is not Phase.FORWARD:
            return
        for fault in self._at_steps:
            if fault.step == step and self._log.claim(str(fault)):
                _DEEDS[fault.kind](self)
        for fault in self._slow:
            if fault.step == step:
                self._log.claim(str(fault))

    def end(self, step: int, took_s: float) -> None:
        """A phase has ended, on the compute thread."""
        for fault in self._slow:
            if fault.step <= step < fault.step + fault.amount:
                time.sleep((fault.factor - 1) * took_s)

    def turn(self) -> None:
        """A turn of the loop, on its thread."""
        while self._spins:
            pass

    def snapshotting(self, step: int) -> None:
        """Half of a snapshot is copied."""
        self._kill_at(self._at_snapshots, step)

    def checkpointing(self, step: int) -> None:
        """A snapshot is taken, and is no part of a checkpoint yet."""
        self._kill_at(self._at_checkpoints, step)

    def _kill_at(self, faults: Sequence[Fault], step: int) -> None:
        for fault in faults:
            if fault.step <= step and self._log.claim(str(fault)):
                _kill_self()

    # What is done to this process -------------------------------------------------------------

    def _spin(self) -> None:
        self._spins = True

    def _kill_keeper(self) -> None:
        os.kill(self._keeper_pid, signal.SIGKILL)
        time.sleep(FOR_EVER_S)  # the kernel ends this process with its keeper

    def _kill_job(self) -> None:
        """End the launcher, or the keeper if that is the launcher: all others die with it."""
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        keeper = psutil.Process(self._keeper_pid)
        os.kill(keeper.ppid() if under_torchrun else keeper.pid, signal.SIGKILL)
        time.sleep(FOR_EVER_S)


def _kill_self() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: SIGKILL can't be survived")


def _raise() -> None:
    raise InjectedFault("the exception that --faults asked for")


def _exhaust_memory() -> None:
    """Allocate more than this process may have: the allocator raises MemoryError."""
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (1 << 26), -1))
    bytearray(OOM_BYTES)


def _hold_gil() -> None:
    """Sleep without giving the GIL away, so that no thread of this process can run."""
    ctypes.PyDLL(None).sleep(FOR_EVER_S)


_DEEDS: dict[str, Callable[[Injector], None]] = {
    "kill": lambda _: _kill_self(),
    "kill-restarting": lambda _: _kill_self(),
    "zombie": lambda _: _kill_self(),
    "segfault": lambda _: print(ctypes.string_at(0)),
    "exit": lambda _: _raise(),
    "oom": lambda _: _exhaust_memory(),
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "gil": lambda _: _hold_gil(),
    "spin": Injector._spin,
    "hang": lambda _: time.sleep(FOR_EVER_S),
    "nan": lambda _: None,  # the block does it itself, as in the sequential reference
    "keeper-kill": Injector._kill_keeper,
    "job-kill": Injector._kill_job,
}
