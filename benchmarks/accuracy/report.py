"""The table and the picture of the accuracy benchmark.

Owns what is compared: paired differences with 95 % t-intervals over seeds, in points of top-1.
Knows nothing of how a run was made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.accuracy.intervals import Interval, t_interval
from benchmarks.accuracy.regimes import BASELINE, Aim, Regime
from benchmarks.harness import make_table

MEASURES = {"linear_top1": "linear", "knn_top1": "kNN"}


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method: top-1 and its paired gap to end-to-end, by measure; points."""

    method: str
    top1: Mapping[str, Interval]
    gap: Mapping[str, Interval] | None
    seeds: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired difference, by measure, and whether the linear one meets its aim."""

    aim: Aim
    gap: Mapping[str, Interval]

    @property
    def is_met(self) -> bool:
        return self.aim.holds(self.gap["linear_top1"])

    @property
    def reached(self) -> str:
        """Whether it meets its aim, in a word or two: also if the interval goes beyond it."""
        if not self.is_met:
            return "no"
        return "yes" if self.aim.holds_throughout(self.gap["linear_top1"]) else "mean only"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is shown: a row a method, the claims, and what a run was. `explored` are methods of
    one seed: their top-1 by measure, and that of the baseline with that seed."""

    regime: Regime
    rows: Sequence[MethodRow]
    comparisons: Sequence[Comparison]
    num_seeds: int
    num_steps: int
    cpu_s: float
    explored: Mapping[str, Mapping[str, tuple[float, float]]]


def summarise(records: Sequence[Mapping[str, Any]], regime: Regime) -> Report:
    """Compare a regime's methods on the seeds of `records`; each needs the same ones."""
    by_run = {(record["method"], record["seed"]): record for record in records}
    seeds = sorted({seed for method, seed in by_run if method in regime.methods})

    def points(method: str, measure: str) -> tuple[float, ...]:
        return tuple(100 * by_run[method, seed][measure] for seed in seeds)

    def gap(method: str, baseline: str) -> dict[str, Interval]:
        return {
            measure: t_interval(
                [
                    a - b
                    for a, b in zip(points(method, measure), points(baseline, measure), strict=True)
                ]
            )
            for measure in MEASURES
        }

    rows = [
        MethodRow(
            method=method,
            top1={measure: t_interval(points(method, measure)) for measure in MEASURES},
            gap=None if method == BASELINE else gap(method, BASELINE),
            seeds={measure: points(method, measure) for measure in MEASURES},
        )
        for method in regime.methods
    ]
    return Report(
        regime=regime,
        rows=rows,
        comparisons=[Comparison(aim=aim, gap=gap(aim.method, aim.baseline)) for aim in regime.aims],
        num_seeds=len(seeds),
        num_steps=max(record["steps"] for record in records),
        cpu_s=sum(record["train_cpu_s"] for record in records),
        explored={
            method: {
                measure: (100 * record[measure], 100 * by_run[BASELINE, seed][measure])
                for measure in MEASURES
            }
            for (method, seed), record in by_run.items()
            if method in regime.explored and (BASELINE, seed) in by_run
        },
    )


# As text ----------------------------------------------------------------------------------------


def method_cells(report: Report) -> list[tuple[str, ...]]:
    """Return the methods' table, headings first."""
    cells: list[tuple[str, ...]] = [
        ("method", "linear top-1", "kNN top-1", "linear - e2e", "kNN - e2e")
    ]
    for row in report.rows:
        gaps = ["–" if row.gap is None else _signed(row.gap[m]) for m in MEASURES]
        cells.append((row.method, *(f"{row.top1[m].mean:.2f}" for m in MEASURES), *gaps))
    return cells


def claim_cells(report: Report) -> list[tuple[str, ...]]:
    """Return the claims' table, headings first."""
    cells: list[tuple[str, ...]] = [("claim", "linear", "kNN", "aim (linear)", "reached")]
    for comparison in report.comparisons:
        aim = comparison.aim
        cells.append(
            (
                f"{aim.method} - {aim.baseline}",
                *(_signed(comparison.gap[measure]) for measure in MEASURES),
                aim.wording,
                comparison.reached,
            )
        )
    return cells


def explored_cells(report: Report) -> list[tuple[str, ...]]:
    """Return the table of what was run with one seed, headings first."""
    cells: list[tuple[str, ...]] = [("one seed each", "linear", "kNN", "linear - e2e", "kNN - e2e")]
    for method, found in report.explored.items():
        gaps = [f"{own - baseline:+.2f}" for own, baseline in found.values()]
        cells.append((method, *(f"{own:.2f}" for own, _ in found.values()), *gaps))
    return cells


def tables(report: Report) -> list[list[tuple[str, ...]]]:
    """Return all tables that are shown, headings first."""
    found = [method_cells(report), claim_cells(report)]
    return [*found, explored_cells(report)] if report.explored else found


def caption(report: Report) -> str:
    """Say what the figures are."""
    regime = report.regime
    splits = ", each with its own split" if regime.num_splits else ""
    return (
        f"Top-1 in %, {regime.images}, last unit; mean of {report.num_seeds} seeds{splits}.\n"
        "Differences in points, paired by seed, with 95 % t-intervals. "
        f"{report.num_steps} steps and equal decoders for all;\n"
        f"{report.cpu_s / 60:.0f} CPU minutes of training."
    )


def print_report(report: Report, console: Console) -> None:
    """Print all tables."""
    for cells in tables(report):
        table = make_table(*cells[0])
        for row in cells[1:]:
            table.add_row(*row)
        console.print()
        console.print(table, highlight=False)
    console.print()
    console.print(caption(report), highlight=False)


def write_markdown(report: Report, header: Mapping[str, str], path: Path) -> None:
    """Write all tables and the header of their measurement."""
    parts = ["# Accuracy of local learning", caption(report).replace("\n", " ")]
    for cells in tables(report):
        rule = ("---", *("---:" for _ in cells[0][1:]))
        parts.append("\n".join(map(_markdown_row, (cells[0], rule, *cells[1:]))))
    parts.append("\n".join(f"* {name}: {value}" for name, value in header.items()))
    parts.append(f"Made by `python -m benchmarks.accuracy --regime {report.regime.name}`.")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _markdown_row(cells: Sequence[str]) -> str:
    """A row of a table; a bar in a cell would end it."""
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


# As a picture -----------------------------------------------------------------------------------


def draw(report: Report, path: Path) -> None:
    """Draw top-1 and the gap to end-to-end, mean and interval a method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    top1_axes, gap_axes = figure.subplots(1, 2, sharey=True)
    for measure, offset, colour in (("linear_top1", -0.14, "C0"), ("knn_top1", 0.14, "C1")):
        heights = [i + offset for i in range(len(report.rows))]
        label = f"{MEASURES[measure]} top-1"
        _points(top1_axes, [row.top1[measure] for row in report.rows], heights, colour, label)
        for row, height in zip(report.rows, heights, strict=True):
            values = row.seeds[measure]
            top1_axes.plot(values, [height] * len(values), ".", color=colour, alpha=0.35)
        gaps = [
            (row.gap[measure], h) for row, h in zip(report.rows, heights, strict=True) if row.gap
        ]
        _points(gap_axes, [gap for gap, _ in gaps], [h for _, h in gaps], colour, label)
    top1_axes.set_yticks(range(len(report.rows)), [row.method for row in report.rows])
    top1_axes.invert_yaxis()
    top1_axes.set_xlabel(f"top-1 on {report.regime.images}, % (small dots: seeds)")
    gap_axes.axvline(0, color="0.4", linewidth=1)
    gap_axes.set_xlabel("difference to end-to-end, points")
    gap_axes.legend(loc="upper right", ncols=2, frameon=False)  # beside the baseline, no points
    for axes in (top1_axes, gap_axes):
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Mean and 95 % interval over {report.num_seeds} seeds, {report.num_steps} steps"
    )
    figure.savefig(path, dpi=130)


def _points(
    axes: Any, intervals: Sequence[Interval], heights: Sequence[float], colour: str, label: str
) -> None:
    axes.errorbar(
        [interval.mean for interval in intervals],
        heights,
        xerr=[interval.half_width for interval in intervals],
        fmt="o",
        color=colour,
        capsize=3,
        label=label,
    )
