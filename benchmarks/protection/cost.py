"""What surviving costs when nothing fails: snapshots, on against off.

    python -m benchmarks.protection

One run of the default job, in which they are switched off for every second stretch of steps, so
that a slow minute of the machine meets both. What a worker sends is retained either way: the
receiver reads it from the very memory in which it is retained, so that this costs no copy.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from benchmarks.harness import (
    ROOT,
    Results,
    header,
    make_console,
    make_table,
    print_header,
)
from launch.config import RunConfig
from launch.program import make_program
from runtime.keeper.keeper import Keeper
from runtime.trust.secret import users_secret

if TYPE_CHECKING:
    from launch.job import LocalLearningJob
    from runtime.core.messages import Snapshot

STRETCH = 20  # steps, on and off in turn
TIMEOUT_S = 1800


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    steps: int = 440
    """Steps of the run."""
    runs: int = 1
    """Runs, one after another."""
    json: Path | None = None
    """File that gets a JSON line a run."""


def is_off(step: int) -> bool:
    """Whether what belongs to a step is left unprotected."""
    return step // STRETCH % 2 == 1


def load_half_protected(config: RunConfig, text: str) -> "LocalLearningJob":
    """The job, in a process that takes no snapshots in every second stretch."""
    from launch.program import load_job
    from runtime.worker.compute_thread import ComputeThread, Saved

    take = ComputeThread._take_snapshot

    def half_take(self: ComputeThread, action: "Snapshot") -> None:
        if action.checkpoint or not is_off(action.step):
            take(self, action)
        else:  # as if it were saved
            now_s = time.monotonic()
            self._done.append(Saved(action.step, None, now_s, now_s))

    ComputeThread._take_snapshot = half_take  # type: ignore[method-assign]
    return load_job(config, text)


def run_half_protected(steps: int, run_dir: Path) -> int:
    """Run the default job in this process, as its keeper."""
    config = RunConfig(
        workers=4,
        steps=steps,
        checkpoint_every=10**6,
        report_every_s=0.2,
        quick_end=True,
        run_dir=run_dir,
    )
    plain = make_program(config, name="protection", secret=users_secret())
    program = replace(plain, load=partial(load_half_protected, config))
    return Keeper(program).run()


def stretches(metrics: Sequence[dict[str, Any]]) -> list[tuple[bool, float]]:
    """Whether each stretch was off, and its steps a second; the first, a warm-up, left out."""
    by_block: dict[int, dict[int, float]] = {}
    for record in metrics:
        by_block.setdefault(record["block"], {})[record["step"]] = record["t"]
    found = []
    last = max(by_block[0])
    for first in range(STRETCH, last + 1 - STRETCH, STRETCH):
        took_s = [ends[first + STRETCH - 1] - ends[first - 1] for ends in by_block.values()]
        found.append((is_off(first), STRETCH / statistics.fmean(took_s)))
    return found


def cost(rates: Sequence[tuple[bool, float]]) -> list[float]:
    """The share of throughput that protection takes, by each stretch between its neighbours."""
    costs = []
    for before, here, after in zip(rates, rates[1:], rates[2:], strict=False):
        around = (before[1] + after[1]) / 2
        off, on = (here[1], around) if here[0] else (around, here[1])
        costs.append(1 - on / off)
    return costs


def measure(options: Options) -> list[dict[str, Any]]:
    """Run in a process of its own, so that nothing of one run is left for the next."""
    found = []
    for run in range(options.runs):
        print(f"run {run + 1} of {options.runs}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as directory:
            run_dir = Path(directory, "run")
            command = [sys.executable, "-m", __spec__.name, str(options.steps)]
            subprocess.run(
                [*command, str(run_dir)], cwd=ROOT, check=True, timeout=TIMEOUT_S, text=True
            )
            lines = (run_dir / "metrics.jsonl").read_text().splitlines()
        rates = stretches([json.loads(line) for line in lines])
        found.append({"rates": rates, "costs": cost(rates)})
    return found


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure, print the cost, and append JSON lines if asked to."""
    facts = header()
    print_header(facts, make_console())
    began_s = time.monotonic()
    runs = measure(options)
    table = make_table("run", "steps/s on", "steps/s off", "cost, median", "quartiles")
    for i, run in enumerate(runs):
        on, off = ([rate for is_, rate in run["rates"] if is_ is which] for which in (False, True))
        low, middle, high = statistics.quantiles(run["costs"], n=4)
        rates = [f"{statistics.median(values):.2f}" for values in (on, off)]
        table.add_row(str(i + 1), *rates, f"{middle:+.1%}", f"{low:+.1%} to {high:+.1%}")
        if options.json is not None:
            Results(options.json).append({"header": facts, **run})
    make_console().print(table)
    print(f"{time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    sys.exit(run_half_protected(int(sys.argv[1]), Path(sys.argv[2])))
