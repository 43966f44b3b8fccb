"""The tables a run ends with: its blocks, its units, and what decoupled updates bought.

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
    tables = [_blocks(summary["blocks"], top1_by_unit), _benefit(summary["benefit"])]
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
        "utili-\nsation",
        "compute\ns",
        "wait\ninput s",
        "wait\ncredit s",
        "wait\ntie s",
        "alone\nms",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for block in blocks:
        top1 = top1_by_unit.get(block["units"][-1], {})
        alone_s = block["alone_step_s"]
        table.add_row(
            Text(str(block["index"])),
            Text(units_label(block["units"], block["guest_units"])),
            _figure(block["loss"], "{:.3f}"),
            _figure(block["probe_top1"], "{:.3f}"),
            _figure(top1.get("linear_top1"), "{:.3f}"),
            _figure(top1.get("knn_top1"), "{:.3f}"),
            _figure(block["utilisation"], "{:.0%}"),
            *(
                _figure(block[f"{what}_s"], "{:.1f}")
                for what in ("compute", "wait_input", "wait_credit", "wait_tie")
            ),
            _figure(None if alone_s is None else alone_s * 1e3, "{:.0f}"),
        )
    return table


def _staleness(blocks: Sequence[Mapping[str, Any]]) -> Table:
    """How old the ties were that each block used."""
    table = _table("staleness of ties in steps")
    for heading in ("used", "median", "p95", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for block in blocks:
        for tie, side in (("tie_up", "below"), ("tie_down", "above")):
            found = block["staleness"].get(tie)
            if found is None:
                continue
            figures = (str(found[key]) for key in ("num", "median", "p95", "max"))
            table.add_row(Text(f"block {block['index']}, from {side}"), *figures)
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


def _benefit(benefit: Mapping[str, Any]) -> Table:
    """Measured throughput beside its ceiling and what the same block times give for others."""
    table = _table("decoupled updates")
    table.add_column("samples/s", justify="right", no_wrap=True)
    table.add_column("measured is", justify="right", no_wrap=True)
    measured = benefit["samples_per_s"]
    table.add_row(Text("measured"), _figure(measured, "{:.1f}"), Text(""))
    cores, lock_step = benefit["cores"], f"lock-step, GPipe of {benefit['microbatches']}"
    for label, key in (
        (f"ceiling of these blocks, timed alone, on {cores} cores", "ceiling_samples_per_s"),
        ("one process, block after block (predicted)", "one_process_samples_per_s"),
        (f"{lock_step}, on {cores} cores (predicted)", "lock_step_samples_per_s"),
        ("this runtime with a core a worker (predicted)", "ceiling_core_each_samples_per_s"),
        (f"{lock_step} with a core a worker (predicted)", "lock_step_core_each_samples_per_s"),
    ):
        other = benefit[key]
        ratio = measured / other if measured is not None and other else None
        table.add_row(Text(label), _figure(other, "{:.1f}"), _figure(ratio, "{:.2f} x"))
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
