"""What a step of ours takes beside its block's compute: a table of the throughput benchmark's runs.

Owns which of a summary's seconds are shown, and their unit. The overhead is what core, driver and
Python take of a block's time; a wait may be a neighbour's fault, or the pipeline's filling.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks.harness import make_table, median_and_spread

COSTS = ("overhead_s", "snapshot_s", "wait_input_s", "wait_credit_s", "wait_tie_s")
HEADINGS = ("ms a step, median of blocks", "overhead", "snapshot", "input", "credit", "tie")


def step_costs(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By case: seconds a step of each cost, the median over all blocks and runs."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if "summary" not in record or not record.get("link"):
            continue
        sizes = f"{record['workers']} blocks, {record['message_mb']:g} MB, {record['condition']}"
        costs = found.setdefault(sizes, {cost: [] for cost in COSTS})
        for block in record["summary"]["blocks"]:
            for cost in COSTS:
                costs[cost].append(block[cost] / record["steps"])
    return {
        case: {cost: median_and_spread(values).median for cost, values in costs.items()}
        for case, costs in found.items()
    }


def make_step_costs_table(records: Sequence[Mapping[str, Any]]) -> Table | None:
    """A row a case, in milliseconds; None if no run was of slept blocks."""
    found = step_costs(records)
    if not found:
        return None
    table = make_table(*HEADINGS)
    for case, costs in found.items():
        table.add_row(case, *(f"{1e3 * costs[cost]:.2f}" for cost in COSTS))
    return table
