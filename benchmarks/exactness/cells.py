"""Every cell of model, workers, tie, lag and overlap: real processes against one loop.

    python -m benchmarks.exactness

Each cell is trained by launch/pipeline.py's processes and by the sequential reference; their
digests of the weights and of everything the workers hold must be equal. Exits non-zero if any
pair differs.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from benchmarks.harness import ROOT, header, make_console, make_table, print_header
from launch.config import ConfigError
from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.resolve import resolve
from models.registry import RESNETS
from models.sequential import train
from runtime import digest

TIMEOUT_S = 300
IMAGES = "synthetic:3x32x32x64"
HOWS = (
    "--precision bf16",
    "--channels-last",
    "--precision bf16 --channels-last --recompute",
    "--recompute",
    "--compile",
    "--compile --recompute --precision bf16 --channels-last",
    "--grad-clip 0.1",
    "--optimizer lars --lr 1 --lr-scale 1,0.5,2",
    "--optimizer sgd --weight-decay 0.01",
)
WIRES = ("--wire-precision bf16", "--wire-precision fp16 --wire-ties")
MORE_WIRES = (
    "--wire-precision fp16",
    "--wire-precision bf16 --wire-ties",
    "--wire-precision bf16 --wire-ties --precision bf16",
    "--wire-precision fp16 --wire-ties --channels-last --recompute",
    "--wire-precision exact,bf16 --wire-ties --grad-clip 0.1",
    "--wire-precision fp16,bf16 --wire-ties --optimizer lars --lr 1",
)
DIGESTS = ("weights_sha256", "state_sha256")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination that means something: untied or alone, a worker has no lag. `how` are more
    flags."""

    model: str
    workers: int
    tie: str
    lag: int
    overlap: str
    how: str = ""

    def flags(self, steps: int) -> list[str]:
        """The main job's flags for this cell, small."""
        settings = {
            "model": self.model,
            "workers": self.workers,
            "tie": self.tie,
            "lag": self.lag,
            "overlap": self.overlap,
            "steps": steps,
            "batch-size": 16,
            "threads": 1,
            "decoder-depth": 0 if self.model == "mlp" else 1,
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        images = () if self.model in ("mlp", "resnet-small") else ("--data", IMAGES)
        return [*words, *images, *self.how.split()]


def cells() -> Iterator[Cell]:
    """All cells: P in 1, 2, 4; each tie; lag 0, 1, 3; overlap 0, 1. Then three workers, which share
    unequally: by numbers, and by a ResNet's stages; every ResNet; how units compute; and what
    edges round, under each tie, over unequal guests and beside what else changes messages."""
    for model, workers in itertools.product(("mlp", "resnet-small"), (1, 2, 4)):
        untied = [("none", 0, overlap) for overlap in (("0",) if workers == 1 else ("0", "1"))]
        tied = [(tie, lag, "1") for tie in ("gradient", "elastic", "follow") for lag in (0, 1, 3)]
        for tie, lag, overlap in untied + (tied if workers > 1 else []):
            yield Cell(model=model, workers=workers, tie=tie, lag=lag, overlap=overlap)
    for tie in ("gradient", "elastic", "follow"):
        yield Cell(model="mlp", workers=3, tie=tie, lag=1, overlap="1,2")
        yield _staged("resnet18-cifar-w8", tie)
    yield from (_staged(f"{name}-w4", "gradient") for name in RESNETS)
    yield from (_staged("resnet18-cifar-w8", "gradient", how) for how in HOWS)
    wired = (("none", 0), *itertools.product(("gradient", "elastic", "follow"), (0, 1)))
    for (tie, lag), wire in itertools.product(wired, WIRES):
        how = wire.replace(" --wire-ties", "") if tie == "none" else wire
        yield Cell(model="mlp", workers=3, tie=tie, lag=lag, overlap="1", how=how)
    yield Cell(model="mlp", workers=3, tie="gradient", lag=1, overlap="1,2", how=WIRES[1])
    yield from (_staged("resnet18-cifar-w8", "gradient", how) for how in (*WIRES, *MORE_WIRES))


def _staged(model: str, tie: str, how: str = "") -> Cell:
    return Cell(model=model, workers=3, tie=tie, lag=1, overlap="stage", how=how)


def by_processes(cell: Cell, steps: int) -> dict[str, str]:
    """The digests of the main job, run as a user runs it."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        command = [sys.executable, str(ROOT / "launch" / "pipeline.py"), *cell.flags(steps)]
        done = subprocess.run(
            [*command, "--run-dir", str(run_dir)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=ROOT,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{cell} failed:\n{done.stdout}{done.stderr}")
        summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return {key: summary[key] for key in DIGESTS}


def by_one_loop(cell: Cell, steps: int) -> dict[str, str]:
    """The digests of the sequential reference."""
    config = parse(cell.flags(steps), prog="exactness")
    job = LocalLearningJob(resolve(config, environment=Environment.from_process()))
    torch.set_num_threads(job.threads)
    blocks = [job.build_block(k) for k in range(job.num_workers)]
    train(blocks, num_steps=job.num_steps, lag=job.plan(0).lag)
    return digest.of_run(
        [block.home_state() for block in blocks], [block.state() for block in blocks]
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare."""

    steps: int = 6
    """Steps of each run."""
    model: str | None = None
    """Only this model."""
    how: str = ""
    """Only cells with this among their flags, such as wire."""


def choose(options: Options) -> list[Cell]:
    """The cells that are asked for. Raises ConfigError if there are none."""
    of_model = [cell for cell in cells() if options.model in (None, cell.model)]
    if not of_model:
        models = ", ".join(dict.fromkeys(cell.model for cell in cells()))
        raise ConfigError(f"no cell has model {options.model!r}; choose from {models}")
    chosen = [cell for cell in of_model if options.how in cell.how]
    if not chosen:
        hows = "; ".join(dict.fromkeys(cell.how for cell in of_model if cell.how))
        raise ConfigError(f"no such cell has how {options.how!r}; choose a part of {hows}")
    return chosen


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Compare every cell, print a table, and exit with 1 if any differs. Raises ConfigError if no
    cell is chosen."""
    chosen = choose(options)
    console = make_console()
    print_header(header(), console)
    table = make_table("model", "workers", "tie", "lag", "overlap", "how", "weights", "state", "")
    num_different, began_s = 0, time.monotonic()
    for i, cell in enumerate(chosen):
        print(f"{i + 1} of {len(chosen)}: {cell}", file=sys.stderr)
        found, expected = by_processes(cell, options.steps), by_one_loop(cell, options.steps)
        num_different += found != expected
        table.add_row(
            cell.model,
            str(cell.workers),
            cell.tie,
            str(cell.lag),
            cell.overlap,
            cell.how.replace("--", ""),
            *(found[key][:8] for key in DIGESTS),
            "equal" if found == expected else "DIFFERENT",
        )
    console.print(table)
    equal = len(chosen) - num_different
    console.print(f"{equal} of {len(chosen)} cells equal, {time.monotonic() - began_s:.0f} s")
    sys.exit(1 if num_different else 0)
