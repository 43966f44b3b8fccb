"""One run of the main job under a fault plan, looked at from outside.

Owns how a run is started, what is left behind afterwards, and what its records say of the faults:
when each fired, was seen and was over, and whose processes changed. Judges nothing.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import ROOT
from runtime.faults.plan import Fault
from runtime.testing import fork_servers

TIMEOUT_S = 300.0
GRACE_S = 5.0
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
    *("--nproc_per_node=4", "--max-restarts=3"),
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The main job's flags, and whether torchrun starts it."""

    flags: tuple[str, ...]
    under_torchrun: bool = False

    def command(self, run_dir: Path, faults: Sequence[Fault], script: str) -> list[str]:
        launcher = TORCHRUN if self.under_torchrun else (sys.executable,)
        plan = ",".join(map(str, faults))
        path = str(ROOT / "launch" / script)
        return [*launcher, path, *self.flags, "--run-dir", str(run_dir), "--faults", plan]


@dataclass
class Outcome:
    """What a run under faults came to; times in seconds."""

    exit_code: int
    text: str  # all that it printed
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    fired: list[dict[str, Any]]
    left_behind: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [record for record in self.metrics if "event" not in record]

    def detected_s(self, fault: Fault, block: int) -> float | None:
        """From a fault to its keeper's noticing that the worker is lost."""
        fired_t = self.fired_t(fault)
        seen = [
            record["detected_t"]
            for record in self.metrics
            if record.get("event") == "restart" and record["block"] == block
        ]
        later = [t - fired_t for t in seen if fired_t is not None and t >= fired_t]
        return min(later, default=None)

    def healed_s(self, fault: Fault, block: int) -> float | None:
        """From a fault to the first step of the worker beyond its highest before, and not before
        the one that the fault belongs to."""
        fired_t = self.fired_t(fault)
        if fired_t is None:
            return None
        own = [record for record in self.steps if record["block"] == block]
        highest = max((r["step"] for r in own if r["t"] <= fired_t), default=-1)
        highest = max(highest, fault.step - 1)
        beyond = [r["t"] - fired_t for r in own if r["t"] > fired_t and r["step"] > highest]
        return min(beyond, default=None)

    def fired_t(self, fault: Fault) -> float | None:
        """When a fault fired (unix seconds), if it did."""
        return next((row["t"] for row in self.fired if row["fault"] == str(fault)), None)

    def pids(self, block: int) -> set[int]:
        """The processes that a block has had."""
        return {record["pid"] for record in self.metrics if record["block"] == block}

    @property
    def training_s(self) -> float:
        """From the first step that any worker ended to the last."""
        times: list[float] = [record["t"] for record in self.steps]
        return max(times) - min(times)


def run_case(job: Job, run_dir: Path, faults: Sequence[Fault]) -> Outcome:
    """Run the job under faults; one that a job-kill ended is started again, by the same command."""
    text, code, seen = "", 0, set[psutil.Process]()
    shared_before = set(os.listdir("/dev/shm"))
    starts = 1 + sum(fault.kind == "job-kill" for fault in faults)
    with fork_servers.own_place() as place:
        for _ in range(starts):
            code, printed = _run(job.command(run_dir, faults, "pipeline.py"), place, seen)
            text += printed
        outlived = left_behind(place, seen, set(os.listdir("/dev/shm")) - shared_before)
    return Outcome(
        exit_code=code,
        text=text,
        summary=_read_json(run_dir / "summary.json"),
        metrics=_read_lines(run_dir / "metrics.jsonl"),
        fired=_read_lines(run_dir / "faults.jsonl"),
        left_behind=outlived,
    )


def run_reference(job: Job, run_dir: Path, faults: Sequence[Fault]) -> dict[str, Any]:
    """The summary of the sequential program under the same faults (nan is the one it knows)."""
    command = [*job.command(run_dir, faults, "sequential.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return _read_json(run_dir / "summary.json")


def _run(command: Sequence[str], place: Path, seen: set[psutil.Process]) -> tuple[int, str]:
    """Run to the end, with temporary files in that place; note every process that it had. What
    outlives the time limit is killed."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(place)},
    )
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended between two looks
            seen |= set(psutil.Process(process.pid).children(recursive=True))
        try:
            printed, _ = process.communicate(timeout=0.3)
            return process.returncode, printed
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline_s:
                for child in [*seen, psutil.Process(process.pid)]:
                    if child.is_running():
                        child.kill()


def left_behind(place: Path, seen: set[psutil.Process], shared: set[str]) -> list[str]:
    """Processes, ports, directories of sockets and shared memory that outlived the run."""
    _, alive = psutil.wait_procs(list(seen), timeout=GRACE_S)
    found = [f"process {process.pid}" for process in alive]
    for process in alive:
        found += [f"port {c.laddr.port}" for c in process.net_connections() if c.status == "LISTEN"]
    found += map(str, fork_servers.left_in(place))
    return found + sorted({f"/dev/shm/{name}" for name in shared} - _mapped_beside(place))


def _mapped_beside(place: Path) -> set[str]:
    """The files that other programs map, such as a pool's semaphores: those of all processes but
    the job's, which have their temporary files in that place."""
    found: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") != str(place):
                found |= {mapped.path for mapped in process.memory_maps()}
    return found


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
