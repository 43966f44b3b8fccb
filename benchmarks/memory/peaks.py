"""Peak memory of a worker, beside one process end to end and GPipe's stages.

    python -m benchmarks.memory

Of each system what each process takes at most, less what a process of the same system takes for a
network that is next to nothing: so what its blocks, batches and messages take. Beside ours stands
the estimate that launch/plan.py prints, and what it is made of.

Of ours and of one process end to end it is looked for while they run (watch.py), GPipe's stages,
which share nothing, tell their most resident memory. All run under MALLOC_MMAP_THRESHOLD_: tensors
that are freed go back to the system at once. Left to itself, glibc keeps up to half as much again,
now more and now less, and one process end to end took 650 to 980 MB. Steps are slower for it.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
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
)
from benchmarks.lock_step.processes import run_lock_step
from benchmarks.lock_step.real_work import real_work
from benchmarks.lock_step.schedule import ScheduleCase
from benchmarks.memory.watch import CHECKPOINT, OWNERS, Sizes, watch
from launch.config import IntList
from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.planning.memory import block_memory
from launch.resolve import resolve

OURS, END_TO_END = "this runtime", "one process, end to end"
NOTHING = ("--model", "mlp", "--data", "synthetic:1x8x8x64", "--batch-size", "8")
NOTHINGS_MICROBATCHES = 4  # microbatches of two images
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


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
    flags: str = ""
    """More flags of ours and of the one process, such as "--recompute"."""
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
            if m:
                yield {"system": system, "run": run, **_stages(m, options)}
                continue
            idle = min(most(watched(system, options, NOTHING), idle_bytes=0)["bytes"])
            looks = watched(system, options, options.network)
            record = {"system": system, "run": run, **most(looks, idle_bytes=idle)}
            if system == OURS:
                record["estimated_bytes"] = estimates(options)
            yield record


def most(looks: Sequence[Mapping[int, Sizes]], *, idle_bytes: int) -> dict[str, Any]:
    """Of all looks: the most that each process took, the most that all took at once, and what
    that was for; without what is there for nothing, but `parts` with it. A checkpoint on its way
    to the disk is apart, as the most of each process."""
    parts = [[sizes[CHECKPOINT] for _, sizes in sorted(look.items())] for look in looks]
    totals = [{k: sum(s.values()) - s[CHECKPOINT] for k, s in look.items()} for look in looks]
    num_blocks = len(max(totals, key=len))
    in_all = [sum(total.values()) for total in totals]
    fullest = looks[in_all.index(max(in_all))]
    return {
        "idle_bytes": idle_bytes,
        "bytes": [max(t.get(k, 0) for t in totals) - idle_bytes for k in range(num_blocks)],
        "at_once_bytes": max(in_all) - num_blocks * idle_bytes,
        "checkpoint_bytes": [max(sizes) for sizes in zip_longest(*parts, fillvalue=0)],
        "parts": {owner: sum(s[owner] for s in fullest.values()) for owner in OWNERS},
    }


def _stages(m: int, options: Options) -> dict[str, Any]:
    idle = min(stage_peaks(min(m, NOTHINGS_MICROBATCHES), options, NOTHING))
    found = [peak - idle for peak in stage_peaks(m, options, options.network)]
    return {"idle_bytes": idle, "bytes": found, "at_once_bytes": sum(found)}


def flags_of(options: Options, network: Sequence[str]) -> tuple[str, ...]:
    """The main job's flags for a network."""
    cut = ("--workers", str(options.workers), "--steps", str(options.steps))
    return (*network, *cut, "--threads", "1", "--device", "cpu", "--quick-end")


def stage_peaks(m: int, options: Options, network: Sequence[str]) -> Sequence[int]:
    """The most resident bytes of each stage of GPipe, lowest first."""
    work = real_work(network, workers=options.workers, steps=options.steps, heads="top")
    case = ScheduleCase(schedule="GPipe", microbatches=m, work=work)
    (timing,) = run_lock_step([case])
    return timing.peak_rss_bytes


def watched(system: str, options: Options, network: Sequence[str]) -> list[dict[int, Sizes]]:
    """What each block of ours takes, or the one process, look by look."""
    flags = [*flags_of(options, network), *options.flags.split()]
    script, method = "pipeline.py", []
    if system == END_TO_END:
        script, method = "sequential.py", ["--method", "e2e"]
        at = flags.index("--workers")
        del flags[at : at + 2]
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        command = [sys.executable, str(ROOT / "launch" / script), *flags, *method]
        return watch([*command, "--run-dir", str(run_dir)], run_dir)


def estimates(options: Options) -> list[int]:
    """What launch/plan.py says of each block while no checkpoint is on its way."""
    environment = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
    flags = [*flags_of(options, options.network), *options.flags.split()]
    config = parse(flags, prog="memory")
    resolved = LocalLearningJob(resolve(config, environment=environment)).resolved
    blocks = resolved.partition.blocks
    took = [block_memory(resolved, block) for block in blocks]
    return [size.total - size.checkpoint for size in took]


def show(records: Sequence[Mapping[str, Any]]) -> None:
    """MB of each process, medians over the runs; and what ours is made of."""
    systems: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        systems.setdefault(record["system"], []).append(record)
    num = max(len(record["bytes"]) for record in records)
    columns = [str(k) for k in range(num)]
    table = make_table("MB by worker or stage", *columns, "most", "at once", "x", "idle")
    whole = [record["at_once_bytes"] for record in systems.get(END_TO_END, ())]
    for system, own in systems.items():
        at_once = _median([record["at_once_bytes"] for record in own])
        share = f"{at_once / _median(whole):.2f}" if whole else ""
        cells = _row([record["bytes"] for record in own], num)
        table.add_row(system, *cells, _mb(at_once), share, _mb(own[0]["idle_bytes"]))
        guesses = [record["estimated_bytes"] for record in own if "estimated_bytes" in record]
        if guesses:
            sums = _mb(_median([sum(guess) for guess in guesses]))
            table.add_row("  as estimated before", *_row(guesses, num), sums, "", "")
    console = make_console()
    console.print(table)
    console.print("at once: the most that all take at one moment; x: of one process, end to end")
    console.print("* its loss is split over microbatches, which a contrastive loss can't be")
    for system, own in systems.items():
        if "parts" in own[0]:
            parts = {
                k: _median([record["parts"][k] for record in own])
                for k in OWNERS
                if k != CHECKPOINT
            }
            made_of = ", ".join(f"{owner} {_mb(size)}" for owner, size in parts.items())
            console.print(f"{system}, at once, idle included: {made_of}")
            on_way = zip(*(record["checkpoint_bytes"] for record in own), strict=True)
            told = ", ".join(_mb(_median(sizes)) for sizes in on_way)
            console.print(f"  while a checkpoint is on its way, also of each block: {told}")


def _median(values: Sequence[float]) -> float:
    return median_and_spread(values).median


def _row(runs: Sequence[Sequence[int]], num: int) -> list[str]:
    middle = [_median(sizes) for sizes in zip(*runs, strict=True)]
    cells = [_mb(size) for size in middle] + [""] * (num - len(middle))
    return [*cells, _mb(max(middle))]


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f}"


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure, write the records, and print a table."""
    results = Results(options.json)
    if not options.redraw:
        os.environ.update(MALLOC)  # of all that is started here
        facts = header()
        print_header(facts, make_console())
        results.path.unlink(missing_ok=True)
        for record in measure(options):
            results.append(record | {"header": facts})
    show(results.read())
