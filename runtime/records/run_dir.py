"""The directory a run leaves behind: what lies where, who may write, and how.

Owns paths, the lock against a second job, and writing that a crash can't leave half done. Must
not know what a configuration or a metric means.
"""

import fcntl
import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from runtime.state.storage import remove_half_written, write_durably

LOOK_EVERY_S = 0.2
MARK = ".run-id"
PLACE = ".checkpoint-dir"
# All that a run writes into its directory; last what says that it holds one (`holds_run`).
WRITTEN = (
    *("checkpoints", MARK, "summary.json", "weights.safetensors", "given.toml"),
    *("faults.jsonl", "tensorboard", "logs", "trace", "trace.json"),
    *(PLACE, "metrics.jsonl", "config.toml"),
)


class RunDir:
    """One run's directory, locked until `close`."""

    def __init__(self, path: Path, lock: TextIO) -> None:
        self.path = path
        self.config_toml = path / "config.toml"  # the resolved config
        self.metrics = path / "metrics.jsonl"  # what workers reported, a JSON object a line
        self.weights = path / "weights.safetensors"  # home weights and buffers by unit name
        self.summary = path / "summary.json"  # the run's outcome as one JSON object
        self.tensorboard = path / "tensorboard"  # directory of TensorBoard's event files
        self.trace = path / "trace.json"  # the timeline
        self.logs = path / "logs"  # directory of the logs, one a process
        self.checkpoints = path / "checkpoints"  # directory of the checkpoints, if not elsewhere
        self._lock = lock
        self._metrics: TextIO | None = None

    @classmethod
    def create(
        cls, path: Path | None, *, name: str, restart: bool = False, patience_s: float = 0.0
    ) -> "RunDir":
        """Make and lock a run's directory: `path`, or a new runs/<UTC time>-<name>.

        `restart` resumes the run that the directory already holds. Raises ValueError if it can't be
        written, another job has it, or it holds a run and this is no restart. A job of another host
        is waited for, up to `patience_s`: if that host has died, the file server lets go in time.
        """
        try:
            path = _new_directory(name) if path is None else path
            (path / "logs").mkdir(parents=True, exist_ok=True)
            lock = (path / ".lock").open("a+")
        except OSError as error:
            raise _unwritable(path or Path("runs"), error) from error
        _take(lock, path, patience_s)
        run_dir = cls(path, lock)
        try:
            _sweep(path)
        except BaseException:
            run_dir.close()
            raise
        if not restart and run_dir.holds_run:
            run_dir.close()
            raise ValueError(
                f"run directory {str(path)!r} already holds a run; give another by --run-dir, "
                "or --fresh to start over in it"
            )
        return run_dir

    @property
    def holds_run(self) -> bool:
        """Whether a run has begun here."""
        return self.config_toml.exists() or self.metrics.exists()

    def mark(self, run_id: str) -> None:
        """Let other hosts see whether this directory is theirs too. Raises ValueError if it can't
        be written."""
        try:
            _write(self.path / MARK, run_id)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def clear(self) -> None:
        """Delete the run that it holds, and nothing else that lies there; if that is cut short, it
        still holds a run. Raises ValueError if something can't be deleted."""
        try:
            for name in WRITTEN:
                path = self.path / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:  # such as what another program has open, on NFS
            raise _unwritable(self.path, error) from error

    @property
    def finished_steps(self) -> int | None:
        """The steps of the run that was finished here, if one was."""
        return finished_steps(self.path)

    def trace_parts(self) -> list[Path]:
        """Each worker's part of the timeline."""
        return sorted((self.path / "trace").glob("worker-*.jsonl"))

    @property
    def checkpoint_dir(self) -> str | None:
        """Where the checkpoints of the run that it holds are, if not here."""
        path = self.path / PLACE
        return path.read_text("utf-8") if path.exists() else None

    def write_config(self, text: str, *, given: str, checkpoint_dir: str | None = None) -> None:
        """Write config.toml and given.toml, and where the checkpoints go if not here, durably.
        Raises ValueError if they can't be."""
        try:
            if checkpoint_dir is None:
                (self.path / PLACE).unlink(missing_ok=True)
            else:
                _write(self.path / PLACE, checkpoint_dir)
            _write(self.path / "given.toml", given)
            _write(self.config_toml, text)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one line a row and flush them, so that whoever follows the file sees them."""
        if self._metrics is None:
            _drop_half_a_line(self.metrics)
            self._metrics = self.metrics.open("a", encoding="utf-8")
        for row in rows:
            self._metrics.write(json.dumps(_finite(row), allow_nan=False) + "\n")
        self._metrics.flush()

    def events(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl that tell of an event, not of a step; oldest first. A last line
        of which a death or a full disk left a part is none."""
        text = self.metrics.read_text("utf-8") if self.metrics.exists() else ""
        lines = text.rpartition("\n")[0].splitlines()
        rows = [json.loads(line) for line in lines if '"event"' in line]
        return [row for row in rows if "event" in row]

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, durably and at once."""
        _write(self.summary, json.dumps(_finite(summary), indent=2, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close what is open and give up the lock."""
        if self._metrics is not None:
            self._metrics.close()
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing alone leaves it to a forked child
        self._lock.close()


def seen_here(path: Path, run_id: str) -> bool:
    """Whether a directory here is that of a run, of whatever host."""
    try:
        return (path / MARK).read_text("utf-8") == run_id
    except (OSError, UnicodeDecodeError):
        return False


def worker_log(path: Path, block: int) -> Path:
    """The log of one block's worker in the run directory `path`; it does not hold the lock."""
    return path / "logs" / f"worker-{block}.log"


def trace_part(path: Path, block: int) -> Path:
    """One block's part of the timeline in the run directory `path`."""
    return path / "trace" / f"worker-{block}.jsonl"


def _new_directory(name: str) -> Path:
    """Make runs/<UTC time>-<name>, which no other run has."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
    stem = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{short}"
    for attempt in count(1):
        path = Path("runs") / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.exists():
                raise  # it is runs itself that is no directory
        else:
            return path
    raise AssertionError("unreachable: count() does not end")


def _unwritable(path: Path, error: OSError) -> ValueError:
    reason = (error.strerror or str(error)).lower()
    return ValueError(
        f"run directory {str(path)!r} can't be written ({reason}); give another by --run-dir"
    )


def _take(lock: TextIO, path: Path, patience_s: float) -> None:
    """Lock the file and leave this process's id in it for whoever comes second."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            is_alive = holder.endswith(f" of host {socket.gethostname()}")  # else it has no lock
            if is_alive or time.monotonic() >= until_s:
                lock.close()
                raise ValueError(
                    f"run directory {str(path)!r} is in use by process {holder}; "
                    "wait for it to end, or give another by --run-dir"
                ) from error
        time.sleep(LOOK_EVERY_S)
    lock.truncate(0)
    lock.write(f"{os.getpid()} of host {socket.gethostname()}")
    lock.flush()


def _sweep(path: Path) -> None:
    """Remove the files that a run was killed over while it wrote them. Raises ValueError."""
    try:
        for name in WRITTEN:
            remove_half_written(path / name)
    except OSError as error:
        raise _unwritable(path, error) from error


def _drop_half_a_line(path: Path) -> None:
    """Cut off what a death or a full disk left without an end."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def _write(path: Path, text: str) -> None:
    write_durably(path, text.encode())


def _finite(value: Any) -> Any:
    """Replace what JSON has no number for (NaN, infinity) by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def finished_steps(run: Path) -> int | None:
    """The steps of the run that was finished in a directory, if one was."""
    try:
        steps = json.loads((run / "summary.json").read_text("utf-8"))["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or it is no summary of ours
    return steps if isinstance(steps, int) else None
