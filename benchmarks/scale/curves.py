"""How the pipeline scales: simulated by the real core, and how far the simulation can be trusted.

    python -m benchmarks.scale --validate          # beside real runs, P = 2, 4, 8, 16
    python -m benchmarks.scale                     # curves up to 1,024 workers on several hosts
    python -m benchmarks.scale --redraw            # the table and the picture of what is there

The curves are of slept blocks, each worker on a core of its own, and show the share of the full
rate (1 / a block's time) that the slowest worker has, the time to fill the pipeline, and the memory
that messages take. With many workers a run of some hundred steps is not steady yet: the band
reaches up to the rate of the lowest worker, and the steady rate lies in it. What loops, copies and
links on a host take is what --validate measured last, on the machine that is named below the table;
between hosts it is what the flags say.
"""

import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.harness import (
    RESULTS,
    Results,
    TextList,
    header,
    make_console,
    make_table,
    print_header,
)
from benchmarks.scale.cases import Site, scale_cases, simulate_case
from benchmarks.scale.machine_probe import latest
from benchmarks.scale.network import Wire
from benchmarks.scale.origin import KEY, origin, origin_line
from benchmarks.scale.validation import VALIDATION, print_validation, validate
from launch.config import IntList
from runtime.lifetime import die_with_parent


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to simulate, and on what."""

    validate: bool = False
    """Run slept blocks for real beside their simulation, instead of drawing curves."""
    workers: IntList = ()
    """Numbers of workers; 2, 4, 8, 16 to validate, and also 64, 256, 1,024 for the curves."""
    steps: int | None = None
    """Steps of a run; 60 to validate, 300 for the curves, after those of the warm-up."""
    runs: int = 1
    """Real runs of each case."""
    step_ms: float = 60.0
    """Milliseconds of a block's step, a third of them in its home's forward."""
    message_mb: float = 1.0
    """Megabytes of each activation and of each tie message."""
    jitter: TextList = ("exponential:0.2",)
    """Stalls of blocks, each with curves of its own beside those without."""
    workers_per_host: int = 16
    """Workers on one host, each on cores of its own."""
    hosts_latency_us: float = 100.0
    """One-way latency between hosts."""
    hosts_gbit: float = 25.0
    """Gigabits a second between two hosts, in each direction."""
    processes: int = len(os.sched_getaffinity(0))
    """Simulations at a time."""
    json: Path | None = None
    """File of JSON lines, started anew; scale.jsonl or scale-validation.jsonl in results."""
    picture: Path = RESULTS / "scale.png"
    """The file of the curves' picture."""
    redraw: bool = False
    """Show what the file holds instead of running anything."""

    def __post_init__(self) -> None:
        if self.workers_per_host < 1:
            raise ValueError(f"{self.workers_per_host} workers per host; give at least 1")


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Validate or simulate, write the records, print a table, and draw the curves."""
    results = Results(options.json or (VALIDATION if options.validate else RESULTS / "scale.jsonl"))
    if not options.redraw:
        facts = header()
        print_header(facts, make_console())
        results.path.unlink(missing_ok=True)
        measure = _validate if options.validate else _simulate
        measure(options, lambda record: results.append(record | {"header": facts}))
    records = results.read()
    if options.validate:
        print_validation(records)
        return
    print_curves(records)
    draw(records, options.picture)


def _validate(options: Options, keep: Callable[[dict[str, Any]], None]) -> None:
    workers = options.workers or (2, 4, 8, 16)
    for record in validate(workers, steps=options.steps or 60, runs=options.runs):
        keep(record)
        if "case" in record:
            what = f"{record['workers']} workers, {record['case']}: {record['error']:+.1%}"
            print(what, file=sys.stderr)


def _simulate(options: Options, keep: Callable[[dict[str, Any]], None]) -> None:
    validation = Results(VALIDATION).read()
    cases = scale_cases(
        make_site(options, validation),
        workers=options.workers or (2, 4, 8, 16, 64, 256, 1024),
        steps=options.steps or 300,
        step_s=options.step_ms / 1e3,
        message_bytes=int(options.message_mb * 1e6) // 4 * 4,
        jitters=("", *options.jitter),
    )
    spawn = get_context("spawn")
    with ProcessPoolExecutor(
        options.processes, mp_context=spawn, initializer=die_with_parent
    ) as pool:
        for record in pool.map(simulate_case, cases):
            keep(record | {KEY: origin(validation)})
            print(f"{record['workers']} workers, {record['curve']}", file=sys.stderr)


def make_site(options: Options, validation: Sequence[Mapping[str, Any]]) -> Site:
    """The hosts: figures that were measured if there are any, each worker on a core and
    with memory of its own, and no stalls but those asked for.

    Between hosts a message is guarded and received as over a socket, but has its own wire.
    """
    figures = latest(validation)
    overhead_s = statistics.median(figures.machine.step_overheads_s)
    between = Wire(
        latency_s=options.hosts_latency_us / 1e6,
        transfer_bytes_per_s=options.hosts_gbit * 1e9 / 8,
        send_bytes_per_s=figures.zmq_ipc.send_bytes_per_s,
        receive_bytes_per_s=figures.zmq_ipc.receive_bytes_per_s,
    )
    return Site(
        machine=replace(
            figures.machine, cores=None, copy_speeds=(), step_overheads_s=(overhead_s,)
        ),
        wire=figures.shm,
        between_hosts=between,
        workers_per_host=options.workers_per_host,
    )


# What is shown ----------------------------------------------------------------------------------


def print_curves(records: Sequence[Mapping[str, Any]]) -> None:
    """One row a point: shares of the full rate, time until filled, most that messages took."""
    table = make_table(
        "curve", "workers", "hosts", "slowest", "worker 0", "filled s", "MB/worker", "GB in all"
    )
    for r in sorted(records, key=lambda r: (_curves(records).index(r["curve"]), r["workers"])):
        table.add_row(
            r["curve"],
            f"{r['workers']:,}",
            str(r["hosts"]),
            f"{r['share_of_full_rate']:.3f}",
            f"{r['share_of_lowest_worker']:.3f}",
            f"{r['fill_s']:.2f}",
            f"{r['retained_bytes_per_worker'] / 1e6:.0f}",
            f"{r['retained_bytes'] / 1e9:.2f}",
        )
    console = make_console()
    console.print(table)
    console.print(f"\n{origin_line(records)}", highlight=False, soft_wrap=True)


def _curves(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Their names, in the order of their first points."""
    return list(dict.fromkeys(r["curve"] for r in records))


PANELS = (
    ("share_of_full_rate", "share of the full rate", 1.0),
    ("fill_s", "seconds until the pipeline is filled", 1.0),
    ("retained_bytes_per_worker", "retained or in flight, MB a worker (most)", 1e-6),
    ("retained_bytes", "retained or in flight, GB in all (most)", 1e-9),
)


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Throughput, fill time and memory over the number of workers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, label, scale) in zip(figure.subplots(2, 2).flatten(), PANELS, strict=True):
        for i, curve in enumerate(_curves(records)):
            own = sorted((r for r in records if r["curve"] == curve), key=lambda r: r["workers"])
            xs, ys = [r["workers"] for r in own], [r[key] * scale for r in own]
            style = "--" if own[0]["jitter"] else "-"
            axes.plot(xs, ys, style, marker=".", color=f"C{i % 3}", label=curve)
            if key == "share_of_full_rate":
                highest = [r["share_of_lowest_worker"] for r in own]
                axes.fill_between(xs, ys, highest, color=f"C{i % 3}", alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="workers", ylabel=label)
        if key == "share_of_full_rate":
            axes.set_ylim(0, 1.05)
            axes.legend(fontsize=8)
        elif key != "retained_bytes_per_worker":
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
