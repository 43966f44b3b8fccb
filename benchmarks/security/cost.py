"""What knowing each other costs: slept blocks over tcp as they run, and with nothing guarded.

Owns the pair of runs, made in turn. Their computing is slept: what differs is the runtime's.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import make_table, run_once
from runtime.testing.slept import SleptConfig

GUARDED, BARE = "as it is", "unguarded"
MODULES = {
    GUARDED: "benchmarks.scale.slept_run",
    BARE: "benchmarks.security.unguarded_run",
}
CONFIG = SleptConfig(
    workers=4,
    steps=400,
    step_s=0.02,
    forward_share=1 / 3,
    activation_bytes=1_000_000,
    tie_bytes=0,
    lag=1,
    window=2,
    link="zmq-tcp",
)


def measure(rounds: int) -> Iterator[dict[str, Any]]:
    """A record a run; which of the two goes first changes from round to round."""
    for number in range(rounds):
        order = (GUARDED, BARE) if number % 2 else (BARE, GUARDED)
        for system in order:
            with tempfile.TemporaryDirectory() as directory:
                run_dir = Path(directory, "run")
                command = [sys.executable, "-m", MODULES[system], json.dumps(asdict(CONFIG))]
                summary = run_once([*command, str(run_dir)], run_dir)
            yield {
                "system": system,
                "round": number,
                "steps_per_s": summary["samples_per_s"],
                "first_step_s": summary["time_to_first_step_s"],
            }


def show(records: list[dict[str, Any]], console: Console) -> None:
    """Medians of both, and of the ratios within each round."""
    table = make_table("4 slept blocks, tcp, 1 MB", "steps/s", "first step, s")
    keys = ("steps_per_s", "first_step_s")
    by = {system: [r for r in records if r["system"] == system] for system in MODULES}
    for system, found in by.items():
        table.add_row(system, *(f"{statistics.median(r[key] for r in found):.2f}" for key in keys))
    ratios = [
        statistics.median(
            ours[key] / bare[key] for ours, bare in zip(by[GUARDED], by[BARE], strict=True)
        )
        for key in keys
    ]
    table.add_row("ratio", *(f"{ratio:.3f}" for ratio in ratios))
    console.print(table)
