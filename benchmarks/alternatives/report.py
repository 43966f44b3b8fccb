"""The table of the comparison: each system's rate, its seconds to an accuracy, and its memory.

Owns what is made of the records. Knows nothing of how they were measured.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.alternatives.systems import ALONE, NEAR
from benchmarks.harness import make_table, median_and_spread, print_header

NOTES = (
    "of one: of the rate of one process. s to .35: seconds to that kNN accuracy after the last",
    "unit. MB: of all processes that compute, and of the largest.",
    "* splits the loss batch over its microbatches",
    "",
)
PLACE = ("machine", "bits", "cores", "commit")  # of a header: what must not differ in a median
Record = Mapping[str, Any]


def of_settings(
    records: Sequence[Record], settings: str, curve: str, *, bits: str | None = None
) -> list[Record]:
    """The rates of these settings, and the curves of these settings that were measured so, all on
    one kind of processor: the one with these bits, or else that of the newest record."""
    found = [
        record
        for record in records
        if record["settings"] == settings and record.get("curve", curve) == curve
    ]
    kinds = [record["header"].get("bits", "") for record in found]
    wanted = kinds[-1] if bits is None and kinds else bits
    return [record for record, kind in zip(found, kinds, strict=True) if kind == wanted]


def place(header: Mapping[str, str]) -> tuple[str, ...]:
    """Where, and by which code; earlier headers have less of it."""
    return tuple(header.get(fact, "") for fact in PLACE)


def of_one_place(records: Sequence[Record], steps: int) -> list[Record]:
    """The rates that were measured where the newest was and by the same code, of each link in so
    many steps, or else in those of its newest; and the curves of where the newest of these was."""
    rates = of_newest_place([record for record in records if "system" in record])
    taken: dict[str, Any] = {}
    for record in rates:
        if taken.get(record["link"]) != steps:
            taken[record["link"]] = record.get("steps")
    return [
        *(record for record in rates if record.get("steps") == taken[record["link"]]),
        *of_newest_place([record for record in records if "points" in record]),
    ]


def of_newest_place(records: Sequence[Record]) -> list[Record]:
    """Those that were measured where the last one was, by the same code."""
    places = [place(record["header"]) for record in records]
    return [record for record, own in zip(records, places, strict=True) if own == places[-1]]


def print_headers(records: Sequence[Record], console: Console) -> None:
    """What has measured the rates, and what the curves."""
    measured: dict[tuple[str, ...], tuple[list[str], Mapping[str, str]]] = {}
    for name, key in (("rates", "system"), ("curves", "points")):
        headers = [record["header"] for record in records if key in record]
        if headers:
            measured.setdefault(place(headers[-1]), ([], headers[-1]))[0].append(name)
    for names, header in measured.values():
        console.print(f"{' and '.join(names)} by", highlight=False)
        print_header(header, console)


def steps_to(points: Sequence[tuple[int, float]], target: float) -> float:
    """The first point that has the accuracy; infinite if none has."""
    return next((step for step, top1 in points if top1 >= target), math.inf)


def print_report(records: Sequence[Record], targets: Sequence[float], console: Console) -> None:
    """A table a link, and the curves' ends."""
    curves = {record["learner"]: record["points"] for record in records if "points" in record}
    links: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        if "system" in record:
            links.setdefault(record["link"], {}).setdefault(record["system"], []).append(record)
    for link, systems in links.items():
        console.print(_table(link, systems, links.get(NEAR, {}), curves, targets))
        console.print()
    for note in NOTES:
        console.print(note, highlight=False)
    for learner, points in curves.items():
        step, top1 = points[-1]
        console.print(f"{learner}: kNN {top1:.3f} after {step} steps", highlight=False)


def _table(
    link: str,
    systems: Mapping[str, Sequence[Record]],
    near: Mapping[str, Sequence[Record]],
    curves: Mapping[str, Any],
    targets: Sequence[float],
) -> Any:
    headings = ["samples/s", "low", "high", "of one"]
    headings += [f"s to {target:g}" for target in targets]
    steps = next(iter(systems.values()))[0].get("steps")
    table = make_table(f"{link}, {steps} steps" if steps else link, *headings, "MB", "most")
    alone = near.get(ALONE, ())
    one = median_and_spread([r["samples_per_s"] for r in alone]).median if alone else math.nan
    for system, own in systems.items():
        rate = median_and_spread([record["samples_per_s"] for record in own])
        learner = own[0]["learner"]
        m, points = learner["microbatches"], curves.get(learner["name"])
        batch = own[0]["batch_size"]
        cells = [
            _seconds(steps_to(points, target) * batch / rate.median) if points else "not measured"
            for target in targets
        ]
        peaks = [median_and_spread(run).median / 1e6 for run in _by_process(own)]
        table.add_row(
            system + (f", {m} microbatches *" if m > 1 else ""),
            *(f"{figure:.0f}" for figure in (rate.median, rate.lowest, rate.highest)),
            _share(rate.median / one),
            *cells,
            f"{sum(peaks):.0f}",
            f"{max(peaks):.0f}",
        )
    return table


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f}" if math.isfinite(seconds) else "never"


def _share(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.2f}".removeprefix("0")


def _by_process(records: Sequence[Record]) -> list[tuple[int, ...]]:
    return list(zip(*(record["peak_rss_bytes"] for record in records), strict=True))
