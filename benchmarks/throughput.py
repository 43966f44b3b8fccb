"""How close the pipeline comes to its ceiling, with slept and with real blocks.

    python -m benchmarks.throughput --blocks sleep
    python -m benchmarks.throughput --blocks real

Every figure is measured by the runtime itself and stands beside its ceiling from the same run:
the slowest block, timed alone on its cores while the other cores are busy.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from benchmarks.harness import (
    ROOT,
    Results,
    header,
    make_console,
    make_table,
    median_and_spread,
    print_header,
)
from runtime.testing.slept import SleptConfig

TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    blocks: Literal["sleep", "real"] = "sleep"
    """Blocks that sleep (real overlap, idle cores), or the default network's."""
    workers: int | None = None
    """Workers; 4 with slept blocks, 2 with real ones."""
    steps: int | None = None
    """Steps of a run; 150 with slept blocks, 60 with real ones."""
    runs: int = 3
    """Runs of each case."""
    step_ms: float = 60.0
    """Milliseconds that a slept block sleeps a step, a third of them in its home's forward."""
    message_mb: float = 1.0
    """Megabytes of each activation and of each tie message of slept blocks."""
    lag: int = 1
    """Lag of the elastic tie."""
    window: int = 2
    """Activations in flight on an edge."""
    link: str = "zmq-ipc"
    """Link between slept blocks."""
    json: Path | None = None
    """File that gets a JSON line a run."""


def slept_command(options: Options, run_dir: Path) -> list[str]:
    """One run of slept blocks."""
    size = int(options.message_mb * 1e6) // 4 * 4
    config = SleptConfig(
        workers=options.workers or 4,
        steps=options.steps or 150,
        step_s=options.step_ms / 1e3,
        forward_share=1 / 3,
        activation_bytes=size,
        tie_bytes=size,
        lag=options.lag,
        window=options.window,
        link=options.link,
    )
    fields = json.dumps(asdict(config))
    return [sys.executable, "-m", "benchmarks.slept", fields, str(run_dir)]


def real_commands(options: Options, run_dir: Path) -> dict[str, list[str]]:
    """The main job with overlap and without, and the same blocks in one process."""
    workers = options.workers or 2
    flags = ["--workers", str(workers), "--steps", str(options.steps or 60)]
    loco = ["--lag", str(options.lag), "--window", str(options.window)]
    gim = ["--overlap", "0", "--tie", "none"]
    launch = ROOT / "launch"
    cases = {
        f"LoCo, {workers} workers": ("pipeline.py", loco),
        f"GIM, {workers} workers": ("pipeline.py", gim),
        "GIM, one process, all cores": ("sequential.py", [*gim, "--threads", "2"]),
    }
    return {
        name: [sys.executable, str(launch / script), *flags, *case, "--run-dir", str(run_dir)]
        for name, (script, case) in cases.items()
    }


def run_once(command: Sequence[str], run_dir: Path) -> dict[str, Any]:
    """Run a command that leaves a run directory; return its summary."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def measure(options: Options) -> dict[str, list[dict[str, Any]]]:
    """All runs of all cases, in turn, so that a slow minute of the machine meets every case."""
    summaries: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for run in range(options.runs):
            path = Path(directory, str(run))
            if options.blocks == "sleep":
                name = f"{options.workers or 4} slept blocks, {options.message_mb:g} MB messages"
                commands = {name: slept_command(options, path)}
            else:
                commands = real_commands(options, path)
            for i, (name, command) in enumerate(commands.items()):
                run_dir = path.with_name(f"{run}-{i}")
                command[-1] = str(run_dir)
                print(f"run {run + 1} of {options.runs}: {name}", file=sys.stderr)
                summaries.setdefault(name, []).append(run_once(command, run_dir))
    return summaries


def show(summaries: dict[str, list[dict[str, Any]]]) -> None:
    """Print each case's figure beside its ceiling: medians, with lowest and highest."""
    table = make_table("case", "samples/s", "ceiling", "of ceiling", "lowest", "highest", "runs")
    for name, runs in summaries.items():
        rates = [run["samples_per_s"] for run in runs]
        ceilings = [run["ceiling_samples_per_s"] for run in runs]
        shares = median_and_spread([a / b for a, b in zip(rates, ceilings, strict=True)])
        table.add_row(
            name,
            f"{median_and_spread(rates).median:.2f}",
            f"{median_and_spread(ceilings).median:.2f}",
            *(f"{share:.3f}" for share in shares),
            str(len(runs)),
        )
    make_console().print(table)


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure, print a table, and append JSON lines where asked to."""
    facts = header()
    print_header(facts, make_console())
    summaries = measure(options)
    show(summaries)
    if options.json is not None:
        results = Results(options.json)
        for name, runs in summaries.items():
            for run in runs:
                results.append({"case": name, "header": facts, "summary": run})


if __name__ == "__main__":
    cyclopts.run(main)
