"""Which lag to choose: throughput over the lag under stalls, beside accuracy over the lag.

    python -m benchmarks.lag              # simulate, run a few lags for real, draw
    python -m benchmarks.lag --redraw     # draw again, with the newest accuracy

Throughput is of slept blocks whose stalls are drawn anew for every step, with a window as large as
the lag asks for: simulated for each lag and draw, and run for real for a few lags with the first
draw. Accuracy is what benchmarks.accuracy has recorded of the digits: lag 0, 1 and 4, and others
with its --explore.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.harness import (
    RESULTS,
    Results,
    Spread,
    TextList,
    header,
    make_console,
    make_table,
    median_and_spread,
    print_header,
)
from benchmarks.scale.machine_probe import WARM_UP, latest, run_really
from benchmarks.scale.slept_simulation import simulated_step_ends, steps_per_s
from benchmarks.scale.validation import VALIDATION
from launch.config import IntList
from runtime.testing.slept import SleptConfig

SIMULATED, REAL = "simulated", "real"
EXACT = "LoCo exact"  # what the accuracy benchmark calls the gradient tie with lag 0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    workers: int = 4
    """Slept blocks of 60 ms, a third of it the home's forward, 1 MB messages."""
    steps: int = 300
    """Steps of a run."""
    lags: IntList = tuple(range(9))
    """Lags to simulate."""
    real_lags: IntList = (0, 1, 4)
    """Lags to run for real as well."""
    draws: int = 5
    """Draws of stalls for each simulated lag."""
    jitter: TextList = ("exponential:0.2", "rare:0.02x10")
    """Stalls of blocks, each a panel of its own."""
    link: str = "shm"
    """Link of the real runs: shm or zmq-ipc."""
    json: Path = RESULTS / "lag.jsonl"
    """File of JSON lines, started anew."""
    picture: Path = RESULTS / "lag.png"
    """The picture's file."""
    redraw: bool = False
    """Draw what the file holds instead of measuring."""


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """One record for each lag, draw and kind of stall: simulated, and real if asked for."""
    figures = latest(Results(VALIDATION).read())
    for jitter in options.jitter:
        for lag in options.lags:
            for draw_seed in range(options.draws):
                config = slept(options, lag, jitter, draw_seed)
                facts = {"jitter": jitter, "lag": lag, "draw": draw_seed}
                ends_s = simulated_step_ends(
                    config, machine=figures.machine, wire=figures.wire(options.link)
                )
                yield facts | _rate(SIMULATED, config, steps_per_s(ends_s, warm_up=WARM_UP))
                if lag in options.real_lags and draw_seed == 0:
                    ends_s = run_really(config)
                    yield facts | _rate(REAL, config, steps_per_s(ends_s, warm_up=WARM_UP))


def _rate(system: str, config: SleptConfig, rate: float) -> dict[str, Any]:
    return {"system": system, "steps_per_s": rate, "share_of_full_rate": rate * config.step_s}


def slept(options: Options, lag: int, jitter: str, seed: int) -> SleptConfig:
    """The blocks of one run; the least window that lets a worker run as far ahead as the lag."""
    return SleptConfig(
        workers=options.workers,
        steps=options.steps,
        step_s=0.06,
        forward_share=1 / 3,
        activation_bytes=10**6,
        tie_bytes=10**6,
        lag=lag,
        window=max(2, lag + 1),
        link=options.link,
        jitter=jitter,
        jitter_seed=seed,
    )


# What is shown ----------------------------------------------------------------------------------


def shares(records: Sequence[Mapping[str, Any]], jitter: str, system: str) -> dict[int, Spread]:
    """The share of the full rate by lag, lowest lag first."""
    by_lag: dict[int, list[float]] = {}
    for r in records:
        if (r["jitter"], r["system"]) == (jitter, system):
            by_lag.setdefault(r["lag"], []).append(r["share_of_full_rate"])
    return {lag: median_and_spread(by_lag[lag]) for lag in sorted(by_lag)}


def accuracies(records: Sequence[Mapping[str, Any]], tie: str) -> dict[int, Spread]:
    """Linear top-1 by lag, from the accuracy benchmark's records: its mean and its range over
    the seeds, lowest lag first."""
    by_lag: dict[int, list[float]] = {}
    for r in records:
        found = re.fullmatch(rf"{tie}, lag (\d+)", r.get("method", ""))
        if found:
            by_lag.setdefault(int(found[1]), []).append(r["linear_top1"])
        elif tie == "gradient" and r.get("method") == EXACT:
            by_lag.setdefault(0, []).append(r["linear_top1"])
    return {
        lag: Spread(sum(top1) / len(top1), min(top1), max(top1))
        for lag, top1 in sorted(by_lag.items())
    }


def accuracy_records() -> list[dict[str, Any]]:
    """What was recorded so far, of the table's methods and of other lags."""
    return list(Results(RESULTS / "accuracy.jsonl").read())


def show(records: Sequence[Mapping[str, Any]], accuracy: Sequence[Mapping[str, Any]]) -> None:
    """One row a lag: shares of the full rate (the real one in brackets), and accuracy."""
    jitters = _jitters(records)
    ties = {tie: accuracies(accuracy, tie) for tie in ("gradient", "elastic")}
    table = make_table("lag", *jitters, *(f"top-1, {tie}" for tie in ties))
    for lag in shares(records, jitters[0], SIMULATED):
        cells = []
        for jitter in jitters:
            real = shares(records, jitter, REAL).get(lag)
            told = "" if real is None else f" ({real.median:.3f})"
            cells.append(f"{shares(records, jitter, SIMULATED)[lag].median:.3f}{told}")
        tops = [f"{ties[tie][lag].median:.4f}" if lag in ties[tie] else "–" for tie in ties]
        table.add_row(str(lag), *cells, *tops)
    make_console().print(table)


def draw(
    records: Sequence[Mapping[str, Any]], accuracy: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Throughput to the left, accuracy to the right, over the same lags."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    rate, top1 = figure.subplots(1, 2, sharex=True)
    for i, jitter in enumerate(_jitters(records)):
        _plot(rate, shares(records, jitter, SIMULATED), f"C{i}", f"stalls {jitter}, simulated")
        real = shares(records, jitter, REAL)
        measured = [spread.median for spread in real.values()]
        rate.plot(list(real), measured, "x", color=f"C{i}", label=f"stalls {jitter}, real")
    for i, tie in enumerate(("gradient", "elastic")):
        _plot(top1, accuracies(accuracy, tie), f"C{i + 2}", f"{tie} tie")
    rate.set(xlabel="lag", ylabel="share of the full rate without stalls", ylim=(0, 1.02))
    top1.set(xlabel="lag", ylabel="linear top-1, held out (mean; range over seeds)")
    for axes in (rate, top1):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _plot(axes: Any, spreads: Mapping[int, Spread], color: str, label: str) -> None:
    lags = list(spreads)
    axes.plot(lags, [s.median for s in spreads.values()], ".-", color=color, label=label)
    low, high = ([getattr(s, end) for s in spreads.values()] for end in ("lowest", "highest"))
    axes.fill_between(lags, low, high, color=color, alpha=0.15, linewidth=0)


def _jitters(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(r["jitter"] for r in records))


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure, write the records, print a table, and draw."""
    results = Results(options.json)
    if not options.redraw:
        facts = header()
        print_header(facts, make_console())
        results.path.unlink(missing_ok=True)
        for record in measure(options):
            results.append(record | {"header": facts})
            print(f"lag {record['lag']}, {record['jitter']}, {record['system']}", file=sys.stderr)
    records, accuracy = results.read(), accuracy_records()
    show(records, accuracy)
    draw(records, accuracy, options.picture)
