"""Random fault plans on the simulated network: does every one end, and end right?

    python -m benchmarks.simulated_faults --plans 10000

Each seed draws a pipeline, its timing and one to six faults; the real core runs it, and the last
weights must equal those of a plain loop. Exits non-zero if any plan fails, and names its seed.
"""

import gc
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from benchmarks.harness import header, make_console, make_table, print_header
from runtime.faults.plan import KINDS
from runtime.testing.simulated_faults import Outcome, PlanFailed, random_plan, run_plan

FIGURES = ("plans", "fired", "resent", "duplicates", "fenced", "failed")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which plans to run."""

    plans: int = 10_000
    """How many."""
    first_seed: int = 0
    """The seed of the first; the others follow."""

    def __post_init__(self) -> None:
        if self.plans < 1:
            raise ValueError(f"plans {self.plans}; give at least 1")


class Tally:
    """Figures by kind of fault: of a plan with several kinds, each kind's row has all."""

    def __init__(self) -> None:
        self.counts = {kind: Counter[str]() for kind in (*KINDS, "all")}

    def add(self, kinds: Iterable[str], outcome: Outcome | None) -> None:
        """Count a plan in the rows of its kinds; None: it failed."""
        for kind in {*kinds, "all"}:
            row = self.counts[kind]
            row["plans"] += 1
            if outcome is None:
                row["failed"] += 1
                continue
            fired = outcome.fired
            row["fired"] += fired.total() if kind == "all" else fired[kind]
            row["resent"] += outcome.num_resent
            row["duplicates"] += outcome.num_duplicates
            row["fenced"] += outcome.num_fenced

    def table(self) -> Table:
        """One line a kind."""
        table = make_table(
            "fault", "plans", "fired", "resent", "duplicates dropped", "fenced", "all ended"
        )
        for kind, row in self.counts.items():
            figures = [f"{row[name]:,}" for name in FIGURES[:-1]]
            table.add_row(kind, *figures, f"NO: {row['failed']}" if row["failed"] else "yes")
        return table


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Run every plan, print a table by kind, and exit with 1 if any failed."""
    gc.freeze()
    gc.set_threshold(200_000)  # events are many and short-lived
    console = make_console()
    print_header(header(), console)
    tally, failed, began_s = Tally(), [], time.monotonic()
    for number in range(options.plans):
        seed = options.first_seed + number
        outcome = None
        try:
            outcome = run_plan(seed)
        except PlanFailed as failure:
            failed.append(seed)
            print(failure, file=sys.stderr)
        _, faults = random_plan(seed)
        tally.add((fault.kind for fault in faults), outcome)
        if (number + 1) % 100 == 0:
            rate = (number + 1) / (time.monotonic() - began_s)
            print(f"{number + 1} of {options.plans}, {rate:.0f} a second", file=sys.stderr)
    took_s = time.monotonic() - began_s
    console.print(tally.table())
    console.print(
        f"\n{options.plans - len(failed)} of {options.plans} plans ended as the plain loop does,"
        f" {took_s:.0f} s, {options.plans / took_s:.0f} a second"
    )
    if failed:
        console.print(f"failing seeds: {', '.join(map(str, failed))}")
    sys.exit(1 if failed else 0)
