"""How well the simulator foretells real runs of slept blocks, where that isn't trivial.

Owns the cases, one by one run for real and simulated, and the table of the errors. The simulator
is told what benchmarks.scale.machine_probe measures, and nothing of the cases.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.harness import RESULTS, make_console, make_table, median_and_spread
from benchmarks.scale.machine_probe import WARM_UP, Figures, probe, run_really
from benchmarks.scale.slept_simulation import simulated_step_ends, steps_per_s
from runtime.testing.slept import SleptConfig

VALIDATION = RESULTS / "scale-validation.jsonl"
AIM = 0.03
MB = 10**6
MOST_LARGE_WORKERS = 4  # with 64 MB, each worker keeps 1.5 GB of messages


@dataclass(frozen=True, kw_only=True)
class ValidationCase:
    """One condition."""

    name: str
    config: SleptConfig

    @property
    def warm_up(self) -> int:
        """Steps to leave out. The first touch of 64 MB of a ring's slot costs ten copies of it,
        and the uppermost worker's ring is the last to have been round."""
        return WARM_UP if self.config.activation_bytes <= MB else 2 * WARM_UP


def cases(workers: Sequence[int], *, steps: int) -> Iterator[ValidationCase]:
    """Blocks of 60 ms, a third of it the home's forward, 1 MB messages, each with one twist.

    The copies of 64 MB take so much of two cores at P = 4 that lag 1 leaves them no slack; so such
    messages are run with lag 2 as well.
    """
    for num in workers:
        plain = SleptConfig(
            workers=num,
            steps=steps,
            step_s=0.06,
            forward_share=1 / 3,
            activation_bytes=MB,
            tie_bytes=MB,
            lag=1,
            window=2,
            link="shm",
        )
        large = replace(plain, activation_bytes=64 * MB, tie_bytes=64 * MB)
        twists = {
            "lag 0": replace(plain, lag=0),
            "lag 1, window 2": plain,
            "exponential stalls": replace(plain, jitter="exponential:0.2"),
            "rare long stalls": replace(plain, jitter="rare:0.02x10"),
            "one block 2x slower": replace(plain, slow_block=num // 2),
        }
        if num <= MOST_LARGE_WORKERS:
            twists["64 MB, lag 2, window 3"] = replace(large, lag=2, window=3)
            twists["64 MB, lag 1, window 2"] = large
            twists["64 MB, zmq-ipc"] = replace(large, link="zmq-ipc")
        for name, config in twists.items():
            yield ValidationCase(name=name, config=config)


def validate(workers: Sequence[int], *, steps: int, runs: int) -> Iterator[dict[str, Any]]:
    """Probe the machine, then all cases in turn, all of that `runs` times, for a shared machine
    changes; one record each."""
    for run in range(runs):
        figures = probe(steps=max(steps, 3 * WARM_UP))
        yield {"figures": figures.facts()}
        for case in cases(workers, steps=steps):
            config = replace(case.config, jitter_seed=run)
            yield compare(replace(case, config=config), figures) | {"run": run}


def compare(case: ValidationCase, figures: Figures) -> dict[str, Any]:
    """Run one case for real, simulate it, and say how far apart they are."""
    config = case.config
    simulated_s = simulated_step_ends(
        config, machine=figures.machine, wire=figures.wire(config.link)
    )
    simulated = steps_per_s(simulated_s, warm_up=case.warm_up)
    measured = steps_per_s(run_really(config), warm_up=case.warm_up)
    return {
        "case": case.name,
        "workers": config.workers,
        "simulated_steps_per_s": simulated,
        "measured_steps_per_s": measured,
        "error": simulated / measured - 1.0,
        "config": asdict(config),
    }


def print_validation(records: Sequence[Mapping[str, Any]]) -> None:
    """One row a case: medians over its runs, with the spread of the real ones, and the largest
    error of a single run."""
    console = make_console()
    cases_run: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in records:
        if "figures" in record:
            for name, value in _lines(record["figures"]):
                console.print(f"{name:>32}  {value}", highlight=False)
            console.print()
        else:
            cases_run.setdefault((record["case"], record["workers"]), []).append(record)
    table = make_table("case", "workers", "simulated /s", "measured /s", "error", "worst", "")
    for (name, workers), own in cases_run.items():
        simulated, measured = (
            median_and_spread([r[key] for r in own])
            for key in ("simulated_steps_per_s", "measured_steps_per_s")
        )
        errors = [r["error"] for r in own]
        middle = median_and_spread(errors).median
        table.add_row(
            name,
            str(workers),
            f"{simulated.median:.3f}",
            f"{measured.median:.2f} ({measured.lowest:.2f} - {measured.highest:.2f})",
            f"{middle:+.1%}",
            f"{max(errors, key=abs):+.1%}",
            "" if abs(middle) <= AIM else f"over {AIM:.0%}",
        )
    console.print(table)


def _lines(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures of the machine, one a line, in units that can be read."""
    for part, values in figures.items():
        for name, value in values.items():
            if value is None:
                continue
            if name == "step_overheads_s":
                middle, late = (x * 1e6 for x in np.quantile(value, [0.5, 0.95]))
                yield f"{part} step overhead", f"{middle:.0f} µs, 19 of 20 below {late:.0f}"
            elif name == "copy_speeds":
                yield f"{part} {name}", ", ".join(f"{speed:.2f}" for speed in value) or "1"
            elif name.endswith("_bytes_per_s"):
                shown = f"{value / 1e9:.2f} GB/s"
                yield f"{part} {name.removesuffix('_bytes_per_s')}", shown
            elif name.endswith("_s"):
                yield f"{part} {name.removesuffix('_s')}", f"{value * 1e6:.0f} µs"
            else:
                yield f"{part} {name}", f"{value}"
