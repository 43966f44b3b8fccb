"""The table and the picture of the throughput benchmark.

    python -m benchmarks.throughput.report [RESULTS.jsonl [PICTURE.png]]

Owns what is made of the records: medians, shares of the ceiling, and what a system keeps of its
own undisturbed rate. Knows nothing of how a run was made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts.types import ExistingFile
from rich.console import Console

from benchmarks.harness import (
    RESULTS,
    Results,
    Spread,
    make_console,
    make_table,
    median_and_spread,
    run_command,
)
from benchmarks.throughput.slept import UNDISTURBED
from benchmarks.throughput.step_costs import make_step_costs_table

HEADINGS = ("system", "samples/s", "ceiling", "of ceiling", "lowest", "highest", "kept", "runs")
NOTES = (
    "* splits the loss batch over its microbatches (m of each batch): a contrastive loss would be",
    "  another one. kept: of the system's own undisturbed rate. If one block is slower, a",
    "  schedule with two stages a rank has its halves on two ranks, and another ceiling. one head:",
    "  less work a batch than the blocks of the ceiling, which have a head and a loss each.",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system on one case: medians over its runs."""

    system: str
    samples_per_s: float
    ceiling_samples_per_s: float
    share: Spread
    kept: float | None
    num_runs: int


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One case: what the blocks are, under which condition, and a row a system."""

    title: str
    condition: str
    ceiling: str
    rows: Sequence[Row]


def summarise(records: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Make a panel of each case, in the order in which they were measured."""
    runs: dict[tuple[str, str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        if "probes" not in record:
            case = (_title(record), record["condition"], record["ceiling"])
            runs.setdefault(case, {}).setdefault(_system(record), []).append(record)
    undisturbed = {
        (title, name): _rate(own)
        for (title, condition, _), systems in runs.items()
        if condition == UNDISTURBED
        for system, own in systems.items()
        for name in (own[0]["system"], system)
    }
    return [
        Panel(
            title=title,
            condition=condition,
            ceiling=ceiling,
            rows=[
                _row(
                    system,
                    own,
                    # over a wide-area link it may be another link or number of microbatches
                    undisturbed.get((title, system), undisturbed.get((title, own[0]["system"]))),
                )
                for system, own in systems.items()
            ],
        )
        for (title, condition, ceiling), systems in runs.items()
    ]


def _title(record: Mapping[str, Any]) -> str:
    if record["blocks"] == "real":
        return f"the default network, {record['workers']} workers"
    sizes = f"{record['message_mb']:g} MB activations, ties of {record['tie_mb']:g} MB"
    return f"{record['workers']} slept blocks, {sizes}"


def _system(record: Mapping[str, Any]) -> str:
    name: str = record["system"]
    if "microbatches" in record:
        return f"{name} * m={record['microbatches']}"
    return f"{name}, {record['link']}" if "link" in record else name


def _rate(own: Sequence[Mapping[str, Any]]) -> float:
    return median_and_spread([record["samples_per_s"] for record in own]).median


def _row(system: str, own: Sequence[Mapping[str, Any]], undisturbed: float | None) -> Row:
    rate = _rate(own)
    is_disturbed = own[0]["condition"] != UNDISTURBED
    return Row(
        system=system,
        samples_per_s=rate,
        ceiling_samples_per_s=median_and_spread([r["ceiling_samples_per_s"] for r in own]).median,
        share=median_and_spread([r["samples_per_s"] / r["ceiling_samples_per_s"] for r in own]),
        kept=rate / undisturbed if is_disturbed and undisturbed else None,
        num_runs=len(own),
    )


# As text ----------------------------------------------------------------------------------------


def print_report(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print a table a case, and what the time of our steps is spent on."""
    panels = summarise(records)
    for panel in panels:
        console.print(f"{panel.title}, {panel.condition} (ceiling: {panel.ceiling})", style="bold")
        table = make_table(*HEADINGS)
        for row in panel.rows:
            table.add_row(
                row.system,
                f"{row.samples_per_s:.2f}",
                f"{row.ceiling_samples_per_s:.2f}",
                *(f"{share:.3f}" for share in row.share),
                "–" if row.kept is None else f"{row.kept:.2f}",
                str(row.num_runs),
            )
        console.print(table, highlight=False)
        console.print()
    if any("*" in row.system for panel in panels for row in panel.rows):
        console.print("\n".join(NOTES), highlight=False)
    if (costs := make_step_costs_table(records)) is not None:
        console.print(costs, highlight=False)


# As a picture -----------------------------------------------------------------------------------


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw each system's share of the ceiling, a panel a case; lines from lowest to highest."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = summarise(records)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(7 * columns, 2.4 * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("share of the ceiling (* splits the loss batch over m microbatches)")
    figure.savefig(path, dpi=130)


def _draw_panel(axes: Any, panel: Panel) -> None:
    shares = [row.share for row in panel.rows]
    axes.barh(
        range(len(shares)),
        [share.median for share in shares],
        xerr=[
            [share.median - share.lowest for share in shares],
            [share.highest - share.median for share in shares],
        ],
        color=[_colour(row.system) for row in panel.rows],
        capsize=2,
    )
    for y, share in enumerate(shares):
        axes.text(0.01, y, f"{share.median:.2f}", va="center", color="white", fontsize=8)
    axes.set_yticks(range(len(shares)), [row.system for row in panel.rows], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set_title(f"{panel.title}, {panel.condition}\nceiling: {panel.ceiling}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(system: str) -> str:
    if "*" in system:
        return "C1"
    return "0.6" if "one process" in system else "C0"


def main(
    results: ExistingFile = RESULTS / "throughput.jsonl", picture: Path = RESULTS / "throughput.png"
) -> None:
    """Print the tables of RESULTS and draw PICTURE from it."""
    records = Results(results).read()
    print_report(records, make_console())
    draw(records, picture)


if __name__ == "__main__":
    run_command(main)
