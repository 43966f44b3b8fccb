"""The table of attacks on the console.

Owns its columns and words. Judges nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.harness import make_table

HELD, NOT_MADE, WORKED = "held off", "not made", "WORKED"


def print_attacks(verdicts: Sequence[Mapping[str, Any]], console: Console) -> None:
    """One line an attack, and below the table what each of those that worked has done, and why one
    was not made."""
    table = make_table(
        *("attack", "row", "exit", "same", "replaced", "rate", "memory MB", "refused"),
        *("its core", "user", ""),
    )
    for verdict in verdicts:
        table.add_row(*_cells(verdict))
    console.print(table)
    for verdict in verdicts:
        for wrong in [*verdict["not_made"], *verdict["wrong"]]:
            console.print(f"{verdict['attack']}: {wrong}", highlight=False, soft_wrap=True)


def outcome(verdict: Mapping[str, Any]) -> str:
    """What came of it, in a word or two: an attack that was not made has not been held off."""
    if verdict["wrong"]:
        return WORKED
    return NOT_MADE if verdict["not_made"] else HELD


def _cells(verdict: Mapping[str, Any]) -> list[str]:
    code, ratio, report = verdict["exit_code"], verdict["rate_ratio"], verdict["report"]
    growth = max(verdict["growth_bytes"].values(), default=None)
    return [
        verdict["attack"],
        str(verdict["row"]),
        "hung" if code is None else str(code),
        "yes" if verdict["same_weights"] else "no",
        f"{verdict['replaced'] - verdict['killed']}",
        "–" if ratio is None else f"{ratio:.2f}",
        "–" if growth is None else f"{growth / 1e6:+.0f}",
        "–" if verdict["refused"] is None else f"{verdict['refused']:,}",
        f"{report['cpu']:.1%}" if "cpu" in report else "–",
        {None: "–", 65534: "nobody", 0: "root"}.get(report.get("uid"), "same"),
        outcome(verdict),
    ]
