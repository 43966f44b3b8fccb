"""A stranger: a process of its own that attacks a run, with nothing but a login and the network.

Owns the conversation with the benchmark, a line each way: "ready", what is seen, "armed", the
report. When the benchmark runs as root the stranger becomes nobody before it acts; else it stays
who it is, and its report says so. It imports all that it needs before: the source is open, but
where an interpreter lies may be root's alone.

    python -m benchmarks.security.stranger NAME SCRATCH SHARE FRAMES
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT
from benchmarks.security.budget import Budget
from benchmarks.security.sight import Sight

MODULE = "benchmarks.security.stranger"
NOBODY = 65534
PATIENCE_S, GRACE_S = 10.0, 2.0

Report = dict[str, Any]
"""What an attack tells of itself: counts, under "worked" what it got that it should not, and under
"not_made" what it lacked to be made at all."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What an attack has beside what it sees."""

    budget: Budget
    scratch: Path
    """A directory that anybody may write to."""
    armed: Callable[[], None]
    """Tells the benchmark that all is prepared: it may now kill a worker, as faults do."""
    latest: Callable[[], Sight]
    """What is seen by now; one who comes early sees the store alone at first."""


Body = Callable[[Sight, Means], Report]


class Stranger:
    """The benchmark's end: one process, which waits to be shown a run."""

    def __init__(self, name: str, scratch: Path, *, share: float, num_frames: int) -> None:
        """`share` is how much of a core it may take, and `num_frames` how many it sends if it is
        the one that sends all sorts."""
        self.name = name
        self._lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, name, str(scratch), str(share), str(num_frames)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._changed = threading.Condition()
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                with contextlib.suppress(ValueError):
                    self._lines.append(json.loads(line))
                self._changed.notify_all()

    def heard(self, word: str, *, wait_s: float = 0.0) -> dict[str, Any] | None:
        """The line that has this key, if it has come by then."""
        with self._changed:
            self._changed.wait_for(lambda: any(word in line for line in self._lines), wait_s)
            return next((line for line in self._lines if word in line), None)

    def show(self, sight: Sight) -> None:
        """Let it begin; or, if it has, show it how things are by now."""
        self._say(sight.to_text())

    def end(self) -> Report:
        """Let it end; returns its report. May be called again."""
        assert self._process.stdin is not None
        if self._process.returncode is not None:
            return self._report()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self.heard("report", wait_s=PATIENCE_S)
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self._report()

    def _report(self) -> Report:
        found = self.heard("report")
        return {"error": "it ended without a report"} if found is None else dict(found["report"])

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def become_nobody() -> None:
    """Give up root for good, if this is root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def main(argv: list[str]) -> int:
    """The process: become nobody, wait for a run, attack it, report."""
    from benchmarks.security.bodies import REMAIN_ROOT, bodies  # takes seconds: it imports torch

    importlib.import_module("encodings.idna")  # of host names, when they are looked up
    name, scratch, share, num_frames = argv
    if name not in REMAIN_ROOT:
        become_nobody()
    os.environ["HOME"] = scratch
    _say(ready=os.getuid())
    text = sys.stdin.readline()
    if not text:
        return 0
    seen, over = [Sight.from_text(text)], threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            seen.append(Sight.from_text(line))
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    budget = Budget(float(share), over)
    means = Means(
        budget=budget,
        scratch=Path(scratch),
        armed=lambda: _say(armed=True),
        latest=lambda: seen[-1],
    )
    try:
        report = bodies(int(num_frames))[name](seen[0], means)
    except Exception:
        report = {"error": traceback.format_exc()}
    _say(report={"uid": os.getuid(), "cpu": round(budget.taken, 4), **report})
    sys.stdout.flush()
    os._exit(0)  # sockets and threads of an attack may not want to end


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
