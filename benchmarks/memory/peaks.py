"""Peak memory of a worker, beside one process end to end and GPipe's stages.

    python -m benchmarks.memory

Of each system the most resident memory of each process, less what a process of the same system
takes for a network that is next to nothing: so what its blocks, batches and messages take. Shared
pages, as of messages retained for neighbours, count for whoever maps them. Beside ours stands the
estimate that launch/plan.py prints.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.harness import (
    RESULTS,
    ROOT,
    Results,
    header,
    make_console,
    make_table,
    median_and_spread,
    print_header,
    run_once,
)
from benchmarks.lock_step.processes import run_lock_step
from benchmarks.lock_step.real_work import real_work
from benchmarks.lock_step.schedule import ScheduleCase
from launch.config import IntList
from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.planning.memory import block_memory
from launch.resolve import resolve

OURS, END_TO_END = "this runtime", "one process, end to end"
NOTHING = ("--model", "mlp", "--data", "synthetic:1x8x8x64", "--batch-size", "8")
NOTHINGS_MICROBATCHES = 4  # microbatches of two images


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train."""

    model: str = "resnet18-cifar"
    """Network."""
    data: str = "synthetic:3x32x32x256"
    """Images."""
    batch_size: int = 32
    """Images of a batch, each in two views."""
    workers: int = 4
    """Workers, and stages of GPipe."""
    steps: int = 4
    """Steps of a run."""
    microbatches: IntList = (4, 8)
    """Microbatches of GPipe, each a case of its own."""
    runs: int = 1
    """Runs of each system."""
    json: Path = RESULTS / "memory.jsonl"
    """File of JSON lines, started anew."""
    redraw: bool = False
    """Show what the file holds instead of measuring."""

    def __post_init__(self) -> None:
        for m in self.microbatches:
            if m < 1 or self.batch_size % m or self.batch_size < 2 * m:
                raise ValueError(
                    f"{m} microbatches of a batch of {self.batch_size} are not equal, or hold no"
                    f" two images; give a divisor of it, at most {self.batch_size // 2}"
                )

    @property
    def network(self) -> tuple[str, ...]:
        """The flags of what is trained."""
        size = ("--batch-size", str(self.batch_size))
        return ("--model", self.model, "--data", self.data, *size)


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """All systems in turn; one record a run."""
    for run in range(options.runs):
        systems = [(OURS, 0), (END_TO_END, 0)]
        systems += [(f"GPipe, {m} microbatches *", m) for m in options.microbatches]
        for system, m in systems:
            print(f"run {run + 1} of {options.runs}: {system}", file=sys.stderr)
            idle = min(peaks(system, min(m, NOTHINGS_MICROBATCHES), options, NOTHING))
            found = peaks(system, m, options, options.network)
            record = {
                "system": system,
                "run": run,
                "idle_bytes": idle,
                "bytes": [peak - idle for peak in found],
            }
            if system == OURS:
                record["estimated_bytes"] = estimates(options)
            yield record


def flags_of(options: Options, network: Sequence[str]) -> tuple[str, ...]:
    """The main job's flags for a network."""
    cut = ("--workers", str(options.workers), "--steps", str(options.steps))
    return (*network, *cut, "--threads", "1", "--device", "cpu", "--quick-end")


def peaks(system: str, m: int, options: Options, network: Sequence[str]) -> list[int]:
    """The most resident bytes of each process of a system, lowest block first."""
    flags = flags_of(options, network)
    if m:
        work = real_work(network, workers=options.workers, steps=options.steps, heads="top")
        case = ScheduleCase(schedule="GPipe", microbatches=m, work=work)
        (timing,) = run_lock_step([case])
        return list(timing.peak_rss_bytes)
    script, method = "pipeline.py", []
    if system == END_TO_END:
        script, method = "sequential.py", ["--method", "e2e"]
        at = flags.index("--workers")
        flags = (*flags[:at], *flags[at + 2 :])
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        command = [sys.executable, str(ROOT / "launch" / script), *flags, *method]
        summary = run_once([*command, "--run-dir", str(run_dir)], run_dir)
    return [block["peak_rss_bytes"] for block in summary["blocks"]]


def estimates(options: Options) -> list[int]:
    """What launch/plan.py says of each block."""
    environment = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
    config = parse(list(flags_of(options, options.network)), prog="memory")
    resolved = LocalLearningJob(resolve(config, environment=environment)).resolved
    blocks = resolved.partition.blocks
    return [block_memory(resolved, block).total for block in blocks]


def show(records: Sequence[Mapping[str, Any]]) -> None:
    """MB of each process; medians over the runs."""
    systems: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        systems.setdefault(record["system"], []).append(record)
    num = max(len(record["bytes"]) for record in records)
    columns = [str(k) for k in range(num)]
    table = make_table("MB by worker or stage", *columns, "most", "in all", "idle")
    for system, own in systems.items():
        table.add_row(system, *_row([r["bytes"] for r in own], num), _mb(own[0]["idle_bytes"]))
        guesses = [r["estimated_bytes"] for r in own if "estimated_bytes" in r]
        if guesses:
            table.add_row("  as estimated before", *_row(guesses, num), "")
    console = make_console()
    console.print(table)
    console.print("* its loss is split over microbatches, which a contrastive loss can't be")


def _row(runs: Sequence[Sequence[int]], num: int) -> list[str]:
    middle = [median_and_spread(sizes).median for sizes in zip(*runs, strict=True)]
    cells = [_mb(size) for size in middle] + [""] * (num - len(middle))
    return [*cells, _mb(max(middle)), _mb(sum(middle))]


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f}"


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure, write the records, and print a table."""
    results = Results(options.json)
    if not options.redraw:
        facts = header()
        print_header(facts, make_console())
        results.path.unlink(missing_ok=True)
        for record in measure(options):
            results.append(record | {"header": facts})
    show(results.read())
