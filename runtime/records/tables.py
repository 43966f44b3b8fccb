"""The tables a run ends with: its blocks, its units, where time went, and the bubble.

Owns how a summary is shown. Knows nothing of how its figures were measured; one that was not
measured is None and shows as a dash.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.records.reports import units_label

UNKNOWN = "–"


def render_closing(summary: Mapping[str, Any], console: Console) -> None:
    """Print the closing tables of a summary with the keys of summary.json."""
    top1_by_unit = {unit["name"]: unit for unit in summary["units"]}
    tables = [
        _blocks(summary["blocks"], top1_by_unit),
        _time(summary["blocks"]),
        _throughput(summary),
    ]
    if any(block.get("staleness") for block in summary["blocks"]):
        tables.insert(1, _staleness(summary["blocks"]))
    if summary["units"]:
        tables.insert(1, units_table(summary["units"]))
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    console.print(Text(_outcome(summary)), soft_wrap=True)


def _blocks(blocks: Sequence[Mapping[str, Any]], top1_by_unit: Mapping[str, Any]) -> Table:
    table = _table("block", "units\n(+ guest)", gap=1)
    for heading in (
        "loss",
        "probe\n(train)",
        "linear\n(test)",
        "kNN\n(test)",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for block in blocks:
        top1 = top1_by_unit.get(block["units"][-1], {})
        table.add_row(
            Text(str(block["index"])),
            Text(units_label(block["units"], block["guest_units"])),
            _figure(block["loss"], "{:.3f}"),
            _figure(block["probe_top1"], "{:.3f}"),
            _figure(top1.get("linear_top1"), "{:.3f}"),
            _figure(top1.get("knn_top1"), "{:.3f}"),
        )
    return table


def _staleness(blocks: Sequence[Mapping[str, Any]]) -> Table:
    """How old the ties were that each block used, and what it could not train on in time."""
    table = _table("staleness of ties in steps")
    for heading in ("used", "median", "p95", "max", "batches lost", "steps replayed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for block in blocks:
        counted = (str(block["lost"]), str(block["replayed_steps"]))
        for tie, side in (("tie_up", "below"), ("tie_down", "above")):
            found = block["staleness"].get(tie)
            if found is None:
                continue
            figures = (str(found[key]) for key in ("num", "median", "p95", "max"))
            table.add_row(Text(f"block {block['index']}, from {side}"), *figures, *counted)
            counted = ("", "")
    return table


def units_table(units: Sequence[Mapping[str, Any]]) -> Table:
    """Held-out accuracy after every unit."""
    table = _table("unit")
    for heading in ("linear top-1 (test)", "kNN top-1 (test)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for unit in units:
        linear, knn = (_figure(unit[key], "{:.3f}") for key in ("linear_top1", "knn_top1"))
        table.add_row(Text(unit["name"]), linear, knn)
    return table


def _time(blocks: Sequence[Mapping[str, Any]]) -> Table:
    """What each worker's time went into, or was spent waiting for, as shares of steady state."""
    table = _table("share of the steady state")
    kinds = ("compute", "overhead", "wait_input", "wait_credit", "wait_tie", "snapshot")
    for kind in kinds:
        table.add_column(kind.replace("_", " "), justify="right", no_wrap=True)
    for block in blocks:
        seconds = block["steady"]
        total_s = sum(seconds.values()) if seconds else 0.0
        shares = [seconds[f"{kind}_s"] / total_s if total_s else None for kind in kinds]
        table.add_row(Text(f"worker {block['index']}"), *(_figure(s, "{:.1%}") for s in shares))
    return table


def _throughput(summary: Mapping[str, Any]) -> Table:
    """The rate and the bubble as measured, beside the bubbles that lock-step schedules have."""
    table = _table("the pipeline")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("by formula", justify="right", no_wrap=True)
    table.add_row(Text("samples/s"), _figure(summary["samples_per_s"], "{:.1f}"), Text(""))
    bubble = summary["bubble"]
    if bubble is None:
        return table
    if bubble["shares_cores"]:
        table.add_row(
            Text("bubble: not measured, for workers shared cores"), Text(UNKNOWN), Text("")
        )
        return table
    measured = _figure(bubble["measured"], "{:.1%}")
    behind = f"behind the first {bubble['fill_steps']} steps"
    table.add_row(Text(f"bubble: share of time that workers waited, {behind}"), measured, Text(""))
    for label, key in (("GPipe and 1F1B", "gpipe_and_1f1b"), ("ZB-H1", "zb_h1")):
        name = f"bubble of {label}, {bubble['microbatches']} micro-batches, if stages were equal"
        table.add_row(Text(name), Text(""), _figure(bubble[key], "{:.1%}"))
    return table


def _outcome(summary: Mapping[str, Any]) -> str:
    final, batches = summary["final"], summary["batches"]
    linear, knn = (_figure(final[key], "{:.3f}").plain for key in ("linear_top1", "knn_top1"))
    wall, first = (
        _figure(summary[key], "{:.1f} s").plain for key in ("wall_s", "time_to_first_step_s")
    )
    counts = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in batches.items())
    return (
        f"test top-1: linear {linear}, kNN {knn}\n"
        f"{summary['steps']} steps in {wall}, the first after {first}\n"
        f"batches: {counts}" + _restarts(summary["restarts"])
    )


def _restarts(restarts: Sequence[Mapping[str, Any]]) -> str:
    """How often workers were restarted, if at all, and how long that took in the middle."""
    if not restarts:
        return ""
    times_s = [r["healed_s"] for r in restarts if r["healed_s"] is not None]
    middle = f"; the median was back after {statistics.median(times_s):.1f} s" if times_s else ""
    blocks = ", ".join(str(block) for block in sorted({r["block"] for r in restarts}))
    return f"\nrestarts: {len(restarts)}, of worker {blocks}{middle}"


def _table(*headings: str, gap: int = 2) -> Table:
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table


def _figure(value: float | None, form: str) -> Text:
    unknown = value is None or math.isnan(value)
    return Text(UNKNOWN if unknown else form.format(value))
