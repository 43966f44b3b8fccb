"""One real run with a stranger beside it, looked at from outside.

Owns how the run is started, when the stranger is shown it, which workers are killed, and what is
seen of all processes meanwhile. Judges nothing.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import ROOT
from benchmarks.security import slept_units
from benchmarks.security.catalogue import Attack
from benchmarks.security.sight import Listening, Sight, find_store, listening_beyond_loopback, look
from benchmarks.security.stranger import Report, Stranger

NUM_WORKERS = 3
ROLES = frozenset({"coordinator", *(f"worker {block}" for block in range(NUM_WORKERS))})
BATCH = 32
SHORT_STEPS, LONG_STEPS = 60, 140
SHOWN_AT_STEP = 5
LOOK_EVERY_S = 0.2
GRACE_S = 5.0
PRINTED_CHARACTERS = 4000
FLAGS = (
    f"--model={slept_units.__name__}:build",
    *("--decoder-depth=0", f"--batch-size={BATCH}", "--threads=1"),
    *("--report-every-s=0.1", "--quick-end"),
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of a run. `exit_code` is None if it had to be ended. `peaks` are the highest
    resident bytes by process ("worker 1", "coordinator") since the stranger was shown the run, and
    `replaced` counts processes that came since. `exposed` are addresses that other hosts reach."""

    exit_code: int | None
    wall_s: float
    samples_per_s: float | None
    peaks: Mapping[str, int]
    replaced: int
    killed: int
    exposed: Sequence[str]
    summary: Mapping[str, Any]
    report: Report
    printed: str = ""


def command(attack: Attack, run_dir: Path) -> list[str]:
    """What starts the run that is attacked."""
    steps = LONG_STEPS if attack.is_long else SHORT_STEPS
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return [
        *(*launcher, f"--nproc_per_node={NUM_WORKERS}", str(ROOT / "launch" / "pipeline.py")),
        *(*FLAGS, *attack.job.flags, f"--steps={steps}", f"--run-dir={run_dir}"),
    ]


class Metrics:
    """The lines of metrics.jsonl, read as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self.records: list[dict[str, Any]] = []

    def read(self) -> None:
        """Take what is new."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._at += len(whole)
            self.records += [json.loads(line) for line in whole.splitlines()]

    def steps(self, block: int) -> list[dict[str, Any]]:
        """The steps that a block has done, in the order in which they were reported."""
        return [r for r in self.records if r.get("block") == block and "step" in r]

    @property
    def workers(self) -> dict[int, int]:
        """The latest process of each block."""
        return {record["block"]: record["pid"] for record in self.records}

    @property
    def slowest_step(self) -> int:
        """The step that all blocks have done."""
        done = [max((r["step"] for r in self.steps(k)), default=-1) for k in range(NUM_WORKERS)]
        return min(done)

    def samples_per_s(self, since_t: float) -> float | None:
        """The rate from then to the end, by the median of the blocks."""
        rates = []
        for block in range(NUM_WORKERS):
            steps = [record for record in self.steps(block) if record["t"] > since_t]
            if len(steps) > 1 and steps[-1]["t"] > steps[0]["t"]:
                ran_s = steps[-1]["t"] - steps[0]["t"]
                rates.append((steps[-1]["step"] - steps[0]["step"]) * BATCH / ran_s)
        return statistics.median(rates) if len(rates) == NUM_WORKERS else None


@dataclass
class Watch:
    """A run that goes on, and what has been seen of it."""

    attack: Attack
    launcher: psutil.Process
    stranger: Stranger
    metrics: Metrics
    run_dir: Path
    earlier: Path
    store: Listening | None = None
    shown_t: float | None = None
    processes: dict[int, psutil.Process] = field(default_factory=dict)
    before: set[int] = field(default_factory=set)
    roles: dict[int, str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    exposed: set[str] = field(default_factory=set)
    new: set[int] = field(default_factory=set)
    to_kill: list[int] = field(default_factory=list)
    is_early_shown: bool = False

    def turn(self) -> None:
        """Look once, and do what is due."""
        self.metrics.read()
        found = self._find()
        if self.store is None:
            self.store = find_store(found)
        if self.store is None or not self.stranger.heard("ready"):
            return
        if self.attack.early and not self.is_early_shown:
            self.is_early_shown = True
            self.stranger.show(Sight(store=self.store, earlier=str(self.earlier)))
        if self.shown_t is None:
            if self.metrics.slowest_step >= SHOWN_AT_STEP:
                self._show(found)
            return
        self._weigh(found)
        self.new |= {process.pid for process in found} - self.before
        if self.to_kill and self.stranger.heard("armed"):
            self._kill(self.to_kill.pop())

    def _find(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = [self.launcher, *self.launcher.children(recursive=True)]
            self.processes |= {process.pid: process for process in found}
            return found
        return []

    def _show(self, found: Sequence[psutil.Process]) -> None:
        assert self.store is not None
        workers = self.metrics.workers
        self.roles = {pid: f"worker {block}" for block, pid in workers.items()}
        self.before = {process.pid for process in found}
        for process in found:
            if process.pid != self.launcher.pid:
                self.exposed |= set(listening_beyond_loopback(process))
            with contextlib.suppress(psutil.Error):
                opened = {file.path for file in process.open_files()}
                if str(self.run_dir / "metrics.jsonl") in opened:
                    self.roles[process.pid] = "coordinator"
        sight = look(
            found,
            workers,
            launcher=self.launcher.pid,
            store=self.store,
            run_dir=self.run_dir,
            earlier=str(self.earlier),
        )
        self.stranger.show(sight)
        self.shown_t = time.time()

    def _weigh(self, found: Sequence[psutil.Process]) -> None:
        for process in found:
            role = self.roles.get(process.pid)
            if role is not None:
                with contextlib.suppress(psutil.Error):
                    size = process.memory_info().rss
                    self.peaks[role] = max(self.peaks.get(role, 0), size)

    def _kill(self, block: int) -> None:
        with contextlib.suppress(psutil.Error):
            self.processes[self.metrics.workers[block]].kill()

    def end_all(self) -> None:
        """Kill what is left of the run."""
        for process in [*self.processes.values()]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs([*self.processes.values()], timeout=GRACE_S)


def run_attacked(
    attack: Attack, directory: Path, *, earlier: Path, timeout_s: float, num_frames: int
) -> Seen:
    """Start the run and the stranger, and see both to their end."""
    scratch = Path(tempfile.mkdtemp(prefix="stranger", dir="/tmp"))
    scratch.chmod(0o777)
    stranger = Stranger(attack.name, scratch, share=attack.share, num_frames=num_frames)
    try:
        return _run(attack, directory, stranger, earlier, timeout_s)
    finally:
        stranger.end()
        shutil.rmtree(scratch, ignore_errors=True)


def _run(
    attack: Attack, directory: Path, stranger: Stranger, earlier: Path, timeout_s: float
) -> Seen:
    run_dir = directory / f"{attack.name}-{attack.job.value}-{int(attack.is_long)}"
    printed = directory / "printed"
    began_s = time.monotonic()
    with printed.open("wb") as output:
        process = subprocess.Popen(
            command(attack, run_dir),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, "TMPDIR": str(directory)},
            umask=attack.umask,
        )
    watch = Watch(
        attack=attack,
        launcher=psutil.Process(process.pid),
        stranger=stranger,
        metrics=Metrics(run_dir / "metrics.jsonl"),
        run_dir=run_dir,
        earlier=earlier,
        to_kill=list(attack.kills),
    )
    try:
        while process.poll() is None and time.monotonic() - began_s < timeout_s:
            watch.turn()
            time.sleep(LOOK_EVERY_S)
        exit_code, wall_s = process.poll(), time.monotonic() - began_s
    finally:
        report = stranger.end()
        watch.end_all()
        process.wait()
    watch.metrics.read()
    summary = run_dir / "summary.json"
    return Seen(
        exit_code=exit_code,
        wall_s=wall_s,
        samples_per_s=watch.metrics.samples_per_s(watch.shown_t) if watch.shown_t else None,
        peaks=watch.peaks,
        replaced=len(watch.new),
        killed=len(attack.kills) - len(watch.to_kill),
        exposed=sorted(watch.exposed),
        summary=json.loads(summary.read_text()) if summary.exists() else {},
        report=report if watch.shown_t or watch.is_early_shown else {"error": "it saw no run"},
        printed=printed.read_text(errors="replace")[-PRINTED_CHARACTERS:],
    )
