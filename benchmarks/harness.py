"""What all benchmarks share: a measurement's header, flags, the console, result files, runs.

Owns what is recorded of a figure: by which machine and commit, and how. Knows nothing of what is
measured.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import cyclopts
import psutil
from rich.console import Console
from rich.table import Table

from launch.config import ConfigError
from models.device import processor
from runtime.coordinator.live_view import make_console

__all__ = [
    "RESULTS",
    "FloatList",
    "Results",
    "Spread",
    "TextList",
    "header",
    "make_console",
    "make_table",
    "median_and_spread",
    "print_header",
    "run_command",
    "run_once",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
"""The folder in which benchmarks leave what the README shows."""
RUN_TIMEOUT_S = 900


def header() -> dict[str, str]:
    """Describe what is measured, on what, and when: a figure without this says little. `bits` is
    what of the processor they depend on.
    """
    load = ", ".join(f"{figure:.2f}" for figure in os.getloadavg())
    return {
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "bits": processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "load": f"{load} (1, 5, 15 min, at the start)",
    }


def print_header(header: Mapping[str, str], console: Console) -> None:
    """Print a header as one line a fact."""
    for name, value in header.items():
        console.print(f"{name:>8}  {value}", highlight=False, soft_wrap=True)
    console.print()


def make_table(*headings: str) -> Table:
    """Make a plain table: the first column to the left, figures to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    return table


class Results:
    """A file of JSON lines that grows by one record at a time, so that a stop loses none."""

    def __init__(self, path: Path) -> None:
        """Open `path` to append; a last line that a crash cut off is removed. Raises ConfigError,
        and leaves the file as it is, if what is there are no records, or no file."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_bytes() if path.exists() else b""
            whole = text[: text.rfind(b"\n") + 1]
            if text and not _are_records(whole):
                raise ConfigError(f"{path} holds no records; give another file")
            if whole != text:
                path.write_bytes(whole)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"{path} can't be used: {reason}; give another file") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; it is with the operating system when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all records, oldest first."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]


def _are_records(lines: bytes) -> bool:
    """Whether these are lines of JSON objects, at least one."""
    try:
        found = [json.loads(line) for line in lines.splitlines()]
    except ValueError:
        return False
    return bool(found) and all(isinstance(record, dict) for record in found)


class Spread(NamedTuple):
    """The middle of repeated measurements, and how far they lie apart."""

    median: float
    lowest: float
    highest: float


def median_and_spread(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest: for the few repeats that a benchmark can afford."""
    if not values:
        raise ValueError("no values to take the median of; measure at least once")
    return Spread(statistics.median(values), min(values), max(values))


def _convert_list(type_: Callable[[str], Any]) -> Callable[[Any, Sequence[cyclopts.Token]], Any]:
    def convert(_: Any, tokens: Sequence[cyclopts.Token]) -> tuple[Any, ...]:
        return tuple(type_(part) for part in tokens[0].value.split(",") if part.strip())

    return convert


FloatList = Annotated[
    tuple[float, ...], cyclopts.Parameter(converter=_convert_list(float), n_tokens=1, negative="")
]
TextList = Annotated[
    tuple[str, ...], cyclopts.Parameter(converter=_convert_list(str), n_tokens=1, negative="")
]


def run_command(main: Callable[..., None]) -> None:
    """Run a benchmark's `main` with the flags of the command line. A wrong one, and a ConfigError
    of `main`, end in one message and exit code 2."""
    app = cyclopts.App()
    app.default(main)
    try:
        command, bound, _ = app.parse_args(sys.argv[1:], exit_on_error=False, print_error=False)
    except (cyclopts.CycloptsError, ValueError) as error:
        _refuse(error)
    try:
        command(*bound.args, **bound.kwargs)
    except ConfigError as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    print(f"{_program(Path(sys.argv[0]))}: error: {error}", file=sys.stderr)
    sys.exit(2)


def run_once(command: Sequence[str], run_dir: Path) -> dict[str, Any]:
    """Run a command that leaves a run directory; return its summary."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def _program(path: Path) -> str:
    """Name what was started: a package by its folder."""
    return path.parent.name if path.name == "__main__.py" else path.stem


def _commit() -> str:
    """Name the commit, and say whether the tree differs from it; "unknown" outside of git."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", *command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit} with uncommitted changes" if changes else commit


def _processor() -> str:
    """Name the CPU's model."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # no Linux: the standard library's answer will do
    return platform.processor() or platform.machine()
