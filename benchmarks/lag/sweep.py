"""Which lag to choose: throughput over the lag under stalls, beside accuracy over the lag.

    python -m benchmarks.lag              # simulate, run a few lags for real, draw
    python -m benchmarks.lag --redraw     # draw again, with the newest accuracy

Throughput is of slept blocks whose stalls are drawn anew for every step, with a window as large as
the lag asks for: simulated for each lag and draw, and run for real for a few lags with the first
draw. The simulation takes the figures of the machine that benchmarks.scale --validate measured
last, which is named below the table. Accuracy is what benchmarks.accuracy has recorded of the
digits: lag 0, 1 and 4, and others with its --what explored; of the config with the most runs.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

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
from benchmarks.scale.origin import KEY, origin, origin_line
from benchmarks.scale.slept_simulation import simulated_step_ends, steps_per_s
from benchmarks.scale.validation import VALIDATION
from launch.config import IntList
from runtime.testing.slept import SleptConfig

SIMULATED, REAL = "simulated", "real"
EXACT = "LoCo exact"  # what the accuracy benchmark calls the gradient tie with lag 0
COMPARED = ("tie", "lag", "seed", "split")  # in which its runs of one config may differ


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
    validation = Results(VALIDATION).read()
    figures = latest(validation)
    for jitter in options.jitter:
        for lag in options.lags:
            for draw_seed in range(options.draws):
                config = slept(options, lag, jitter, draw_seed)
                facts = {"jitter": jitter, "lag": lag, "draw": draw_seed}
                ends_s = simulated_step_ends(
                    config, machine=figures.machine, wire=figures.wire(options.link)
                )
                simulated = _rate(SIMULATED, config, steps_per_s(ends_s, warm_up=WARM_UP))
                yield facts | simulated | {KEY: origin(validation)}
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


class Accuracy(NamedTuple):
    """Linear top-1: its mean and its range over so many seeds."""

    spread: Spread
    num_seeds: int


def accuracies(records: Sequence[Mapping[str, Any]], tie: str) -> dict[int, Accuracy]:
    """By lag, lowest lag first, from the accuracy benchmark's records of one config."""
    by_lag: dict[int, dict[int, float]] = {}
    for r in of_one_config(records):
        found_tie, lag = _tie_and_lag(r["method"])
        if found_tie == tie:
            by_lag.setdefault(lag, {})[r["seed"]] = r["linear_top1"]
    return {lag: _accuracy(list(by_lag[lag].values())) for lag in sorted(by_lag)}


def of_one_config(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The runs with a tie and a lag that have all else in common: of several configs, those of the
    one with the most runs, and of as many the later one."""
    by_config: dict[str, list[Mapping[str, Any]]] = {}
    for r in records:
        if "method" in r and _tie_and_lag(r["method"])[0]:
            config = tomllib.loads(r["config"])
            common = {name: value for name, value in config.items() if name not in COMPARED}
            by_config.setdefault(repr(sorted(common.items())), []).append(r)
    return max(reversed(by_config.values()), key=len, default=[])


def _tie_and_lag(method: str) -> tuple[str, int]:
    """What the accuracy benchmark's name of a method says; ("", 0) if it is another kind."""
    if method == EXACT:
        return "gradient", 0
    found = re.fullmatch(r"(\w+), lag (\d+)", method)
    return (found[1], int(found[2])) if found else ("", 0)


def _accuracy(top1: Sequence[float]) -> Accuracy:
    return Accuracy(Spread(sum(top1) / len(top1), min(top1), max(top1)), len(top1))


def accuracy_records() -> list[dict[str, Any]]:
    """What was recorded so far, of the table's methods and of other lags."""
    return list(Results(RESULTS / "accuracy.jsonl").read())


def show(records: Sequence[Mapping[str, Any]], accuracy: Sequence[Mapping[str, Any]]) -> None:
    """One row a lag: shares of the full rate (the real one in brackets), and accuracy (of so many
    seeds); and of which machine the simulated figures are."""
    jitters = _jitters(records)
    ties = {tie: accuracies(accuracy, tie) for tie in ("gradient", "elastic")}
    table = make_table("lag", *jitters, *(f"top-1, {tie} (seeds)" for tie in ties))
    for lag in shares(records, jitters[0], SIMULATED):
        cells = []
        for jitter in jitters:
            real = shares(records, jitter, REAL).get(lag)
            told = "" if real is None else f" ({real.median:.3f})"
            cells.append(f"{shares(records, jitter, SIMULATED)[lag].median:.3f}{told}")
        tops = [_top1(ties[tie].get(lag)) for tie in ties]
        table.add_row(str(lag), *cells, *tops)
    console = make_console()
    console.print(table)
    console.print(f"\n{origin_line(records)}", highlight=False, soft_wrap=True)


def _top1(accuracy: Accuracy | None) -> str:
    return "–" if accuracy is None else f"{accuracy.spread.median:.4f} ({accuracy.num_seeds})"


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
        found = accuracies(accuracy, tie)
        spreads = {lag: of_lag.spread for lag, of_lag in found.items()}
        seeds = " or ".join(map(str, sorted({of_lag.num_seeds for of_lag in found.values()})))
        _plot(top1, spreads, f"C{i + 2}", f"{tie} tie, seeds a lag: {seeds or 0}")
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
