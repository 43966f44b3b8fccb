"""The main job on several hosts, started as clusters start it, watched and ended from outside.

Owns the ways of starting. Knows nothing of what is to be shown by it.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.harness import ROOT
from benchmarks.hosts.namespaces import Host, Hosts

How = Literal["torchrun", "torchrun-static", "torchrun-own-store", "pet", "env"]
HOWS: tuple[How, ...] = get_args(How)
"""torchrun by c10d; by fixed node ranks; by c10d without sharing its store; by variables of PET_
alone, as Kubeflow sets them; and ranks that are started one by one with RANK and others set."""

PORT = 29517
POLL_S = 0.1
LEAVE_S = 5.0  # for what a rank has started to follow it
PIPELINE = ROOT / "launch" / "pipeline.py"


def write_secret(path: Path) -> Path:
    """A file with a secret for the hosts of a job."""
    path.write_text(secrets.token_hex(32))
    path.chmod(0o600)
    return path


@dataclass
class Process:
    """A launcher or a rank on a host, and what it prints."""

    host: int
    popen: "subprocess.Popen[bytes]"
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")


@dataclass
class HostsJob:
    """One command's worth of a job on hosts: `ranks` are how many each host has."""

    hosts: Hosts
    how: How
    ranks: Sequence[int]
    flags: Sequence[str]
    run_dir: Path
    work: Path
    env: Mapping[str, str] = field(default_factory=dict)
    torchrun_flags: Sequence[str] = ()
    is_elastic: bool = False
    """torchrun goes on with fewer hosts, if it must."""
    flags_of_host: Mapping[int, Sequence[str]] = field(default_factory=dict)
    spares: Sequence[str] = ()
    """Words in the commands of processes that are not this job's."""
    processes: list[Process] = field(default_factory=list)

    def start(self) -> None:
        """Start it on every host."""
        for index in range(len(self.ranks)):
            self.start_on(index)

    def start_on(self, index: int) -> None:
        """Start one host's part."""
        if self.how == "env":
            first = sum(self.ranks[:index])
            for local in range(self.ranks[index]):
                self._start_rank(index, first + local, local)
            return
        host, (more, variables) = self.hosts.hosts[index], self._torchrun(index)
        self._start(
            index,
            [sys.executable, "-m", "torch.distributed.run", *more, str(PIPELINE)],
            variables | {"PET_LOCAL_ADDR": host.address},
        )

    def _start_rank(self, index: int, rank: int, local: int) -> None:
        variables = {
            "RANK": str(rank),
            "WORLD_SIZE": str(sum(self.ranks)),
            "LOCAL_RANK": str(local),
            "MASTER_ADDR": self.hosts.hosts[0].address,
            "MASTER_PORT": str(PORT),
        }
        self._start(index, [sys.executable, str(PIPELINE)], variables)

    def _torchrun(self, index: int) -> tuple[list[str], dict[str, str]]:
        """torchrun's flags on a host, and its variables."""
        first = self.hosts.hosts[0].address
        nodes, here = str(len(self.ranks)), str(self.ranks[index])
        endpoint = f"[{first}]:{PORT}" if ":" in first else f"{first}:{PORT}"
        if self.how == "pet":
            return [], {
                "PET_NNODES": nodes,
                "PET_NPROC_PER_NODE": here,
                "PET_NODE_RANK": str(index),
                "PET_MASTER_ADDR": first,
                "PET_MASTER_PORT": str(PORT),
            }
        given = [
            f"--nnodes={'1:' * self.is_elastic}{nodes}",
            f"--nproc_per_node={here}",
            *self.torchrun_flags,
        ]
        if self.how == "torchrun-static":
            place = [f"--node_rank={index}", f"--master_addr={first}", f"--master_port={PORT}"]
            return [*given, *place], {}
        given += ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=loco"]
        own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        return given, own if self.how == "torchrun-own-store" else {}

    def _start(self, index: int, command: list[str], variables: Mapping[str, str]) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        output = self.work / f"host-{index}-{len(self.processes)}.txt"
        flags = [*self.flags, f"--run-dir={self.run_dir}", *self.flags_of_host.get(index, ())]
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        with output.open("wb") as file:
            popen = self.hosts.hosts[index].start(
                [*command, *flags],
                env={**inherited, "OMP_NUM_THREADS": "1", **self.env, **variables},
                cwd=self.work,
                output=file,
            )
        self.processes.append(Process(index, popen, output))

    # What can be seen of it -------------------------------------------------------------------

    @property
    def codes(self) -> list[int | None]:
        """Exit codes, None while it runs."""
        return [process.popen.poll() for process in self.processes]

    @property
    def text(self) -> str:
        """All that it has printed on any host."""
        return "\n".join(process.text for process in self.processes)

    @property
    def _records(self) -> Path:
        """The run directory of rank 0's host."""
        return self.hosts.hosts[0].path(self.run_dir)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self._records / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def step(self) -> int:
        """The latest step that the top worker has told of; -1 before the first."""
        return max((row["step"] for row in self.rows() if "loss" in row), default=-1)

    def pids(self) -> set[int]:
        """The workers that have told of a step."""
        return {row["pid"] for row in self.rows() if "loss" in row}

    def first_step_t(self, since_t: float, *, block: int, but: Container[int]) -> float | None:
        """When a block did its first step after a time, in unix seconds, in a process that is none
        of `but`; None if it did none."""
        rows = [row for row in self.rows() if "loss" in row and row["block"] == block]
        times = [row["t"] for row in rows if row["pid"] not in but and row["t"] > since_t]
        return min(times, default=None)

    @property
    def summary(self) -> dict[str, Any]:
        """The summary; empty if there is none."""
        path = self._records / "summary.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def ranks_on(self, host: Host) -> list[int]:
        """The processes of this job's ranks on a host: the keepers."""
        return [pid for pid in host.processes() if _is_rank(pid)]

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something; whether it came in time."""
        deadline_s = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(POLL_S)
        return True

    def wait_for_step(self, step: int, timeout_s: float) -> bool:
        """Wait until a step is done, or all has ended; whether it was done."""
        self.wait(lambda: self.step() >= step or None not in self.codes, timeout_s)
        return self.step() >= step

    def finish(self, timeout_s: float) -> bool:
        """Wait until all have ended; whether they did."""
        return self.wait(lambda: None not in self.codes, timeout_s)

    def _running(self) -> list[int]:
        every = [pid for host in self.hosts.hosts for pid in host.processes()]
        return [pid for pid in every if not _has_word(pid, self.spares)]

    # What is done to it -----------------------------------------------------------------------

    def signal_host(self, index: int, number: int = signal.SIGTERM) -> None:
        """Send a signal to what was started on a host, as before it is taken away."""
        for process in self.processes:
            if process.host == index and process.popen.poll() is None:
                process.popen.send_signal(number)

    def kill_rank(self, index: int) -> None:
        """Kill the first rank of a host."""
        os.kill(self.ranks_on(self.hosts.hosts[index])[0], signal.SIGKILL)

    def end(self) -> list[int]:
        """End all that is left of it; the processes that were left though their launchers and ranks
        had ended."""
        left: list[int] = []
        if None not in self.codes:
            self.wait(lambda: not self._running(), LEAVE_S)
            left = self._running()
        for pid in self._running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(timeout=10.0)
        return left


def _has_word(pid: int, words: Sequence[str]) -> bool:
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return any(word.encode() in found for word in words)
    return False


def _is_rank(pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        is_python = b"python" in Path(words[0].decode()).name.encode()
        return is_python and str(PIPELINE).encode() in words[:3]
    return False
