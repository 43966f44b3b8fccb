"""The tables a run ends with: its blocks, its units, where time went, and the bubble.

Owns how a summary is shown. Knows nothing of how its figures were measured; one that was not
measured is None and shows as a dash.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.records.progress import units_label
from runtime.records.schema import (
    Accuracy,
    BlockSummary,
    Evaluation,
    Restart,
    Seconds,
    Summary,
    UnitAccuracy,
)

UNKNOWN = "–"


def render_closing(summary: Summary, console: Console) -> None:
    """Print the closing tables."""
    tables = [_blocks(summary)]
    if summary.units:
        tables.append(units_table(summary.units))
    if any(block.staleness for block in summary.blocks):
        tables.append(_staleness(summary.blocks))
    for table in (*tables, _time(summary.blocks), _throughput(summary)):
        console.print()
        console.print(table)
    console.print()
    console.print(Text(_outcome(summary)), soft_wrap=True)


def _blocks(summary: Summary) -> Table:
    table = plain_table("block", "units\n(+ guest)", gap=1)
    _add_figures(table, "loss", "probe\n(train)", "linear\n(test)", "kNN\n(test)")
    top1_by_unit = {unit.name: unit for unit in summary.units}
    for block in summary.blocks:
        top1 = top1_by_unit.get(block.units[-1], Accuracy())
        figures = (block.loss, block.probe_top1, top1.linear_top1, top1.knn_top1)
        table.add_row(
            Text(str(block.index)),
            Text(units_label(block.units, block.guest_units)),
            *(_figure(figure, "{:.3f}") for figure in figures),
        )
    return table


def _staleness(blocks: Sequence[BlockSummary]) -> Table:
    """How old the ties were that each block used."""
    table = plain_table("staleness of ties in steps")
    _add_figures(table, "used", "median", "p95", "max")
    for block in blocks:
        for tie, side in (("tie_up", "below"), ("tie_down", "above")):
            found = block.staleness.get(tie)
            if found is None:
                continue
            figures = map(str, (found.num, found.median, found.p95, found.max))
            table.add_row(Text(f"block {block.index}, from {side}"), *figures)
    return table


def units_table(units: Sequence[UnitAccuracy]) -> Table:
    """Held-out accuracy after every unit."""
    table = plain_table("unit")
    _add_figures(table, "linear top-1 (test)", "kNN top-1 (test)")
    for unit in units:
        figures = (_figure(top1, "{:.3f}") for top1 in (unit.linear_top1, unit.knn_top1))
        table.add_row(Text(unit.name), *figures)
    return table


def evaluation_line(record: Evaluation) -> str:
    """What was measured, on what and how."""
    of = record.protocol
    epochs = f", {of['epochs']} epochs" if of["linear"] == "sgd" else ""
    test = "held-out training" if record.validation else "test"
    return (
        f"{record.data}: {record.num_train} training and {record.num_test} {test} images of"
        f" {record.num_classes} classes; features: {of['features']}; linear:"
        f" {of['linear']}{epochs}; kNN: k {of['k']}, temperature {of['temperature']}"
    )


def evaluation_table(records: Sequence[Evaluation]) -> Table:
    """Held-out accuracy after each unit, and the block whose home ends there."""
    table = plain_table("unit")
    _add_figures(table, "block", "features", "linear top-1 (test)", "kNN top-1 (test)")
    for record in records:
        counts = (_figure(count, "{}") for count in (record.block, record.num_features))
        figures = (_figure(top1, "{:.3f}") for top1 in (record.linear_top1, record.knn_top1))
        table.add_row(Text(record.unit), *counts, *figures)
    return table


def _time(blocks: Sequence[BlockSummary]) -> Table:
    """What each block's time went into, or was spent waiting for, as shares of steady state."""
    table = plain_table("share of the steady state")
    kinds = [field.name for field in fields(Seconds)]
    _add_figures(table, *(kind.removesuffix("_s").replace("_", " ") for kind in kinds))
    for block in blocks:
        steady = block.steady or Seconds()
        shares = (steady.share(getattr(steady, kind)) for kind in kinds)
        table.add_row(Text(f"block {block.index}"), *(_figure(s, "{:.1%}") for s in shares))
    return table


def _throughput(summary: Summary) -> Table:
    """The rate and the bubble as measured, beside the bubbles that lock-step schedules have."""
    table = plain_table("the run")
    _add_figures(table, "measured", "by formula")
    table.add_row(Text("samples/s"), _figure(summary.samples_per_s, "{:.1f}"))
    if (bubble := summary.bubble) is None:
        return table
    if bubble.shares_cores:
        table.add_row(Text("bubble: not measured, for workers shared cores"), Text(UNKNOWN))
        return table
    label = f"bubble: share of time that workers waited, after the first {bubble.fill_steps} steps"
    table.add_row(Text(label), _figure(bubble.measured, "{:.1%}"))
    for schedule, share in (("GPipe and 1F1B", bubble.gpipe_and_1f1b), ("ZB-H1", bubble.zb_h1)):
        label = f"bubble of {schedule}, {bubble.microbatches} micro-batches, if stages were equal"
        table.add_row(Text(label), Text(""), _figure(share, "{:.1%}"))
    return table


def _outcome(summary: Summary) -> str:
    final = (summary.final.linear_top1, summary.final.knn_top1)
    linear, knn = (_figure(top1, "{:.3f}").plain for top1 in final)
    first = _figure(summary.time_to_first_step_s, "{:.1f} s").plain
    batches = dict(summary.batches)
    messages = {
        "resent": batches.pop("replayed", 0),
        "duplicates dropped": batches.pop("duplicates_dropped", 0),
    }
    return (
        f"test top-1: linear {linear}, kNN {knn}\n"
        f"{summary.steps} steps; this command took {summary.wall_s:.1f} s, its first step came"
        f" after {first}\n"
        f"batches: {_counts(batches)}; messages: {_counts(messages)}"
        + _restarts(summary.restarts)
        + _refused(summary.refused)
    )


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counted.items())


def _refused(refused: int) -> str:
    """How many strangers came; mostly none."""
    return f"\nrefused: {refused} connections or messages that were not of this job" * (refused > 0)


def _restarts(restarts: Sequence[Restart]) -> str:
    """How often workers were restarted since the run began, if at all, and how long that took."""
    if not restarts:
        return ""
    times_s = [restart.healed_s for restart in restarts if restart.healed_s is not None]
    middle = f"; the median was back after {statistics.median(times_s):.1f} s" if times_s else ""
    blocks = ", ".join(map(str, sorted({restart.block for restart in restarts})))
    return f"\nrestarts: {len(restarts)}, of worker {blocks}{middle}"


def plain_table(*headings: str, gap: int = 2) -> Table:
    """A table of columns alone, without lines."""
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table


def _add_figures(table: Table, *headings: str) -> None:
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)


def _figure(value: float | None, form: str) -> Text:
    unknown = value is None or math.isnan(value)
    return Text(UNKNOWN if unknown else form.format(value))
