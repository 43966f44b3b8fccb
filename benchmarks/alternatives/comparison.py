"""Which system trains a network soonest on two cores: ours, or what a user would pick instead.

    python -m benchmarks.alternatives --data cifar10:PATH
    python -m benchmarks.alternatives --data cifar10:PATH --wan-rtt-ms 50 --only rates

All have the same network, images, batch, optimizer and cores. Two things are measured apart: how
many samples a second each system takes (`rates`, on a machine that does nothing else), and what
accuracy its learner has after how many steps (`curves`, in one process of one thread each; of the
learners that the rates name). Seconds to an accuracy are steps over rate. The schedules split the
batch of a loss over microbatches; the others don't.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter

from benchmarks.alternatives.learners import Curve, learn
from benchmarks.alternatives.report import (
    of_newest_place,
    of_one_place,
    of_settings,
    place,
    print_headers,
    print_report,
)
from benchmarks.alternatives.systems import (
    END_TO_END,
    NEAR,
    WORKERS,
    Conditions,
    Learner,
    Task,
    measure_rates,
    systems,
)
from benchmarks.harness import (
    RESULTS,
    FloatList,
    Results,
    header,
    make_console,
)
from benchmarks.throughput.slept import Wan
from launch.run_data import load_run_data

LEAST_STEPS = 5  # of which the first ones do not count


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, and what to measure of it."""

    data: str = "digits"
    """Images, as the main job's --data."""
    model: str = "resnet18-cifar-w16"
    """Network."""
    train_images: int | None = None
    """So many of the training images; all, if not given."""
    batch_size: int = 256
    """Images of a batch, each in two views."""
    epochs: int = 6
    """Passes over the training images of a curve; the learning rate falls to 0 over them."""
    lr: float = 0.002
    """Learning rate."""
    only: Literal["rates", "curves"] | None = None
    """Measure the one and not the other."""
    runs: int = 3
    """Runs of each system for its rate."""
    steps: int = 15
    """Steps of such a run."""
    every: int = 20
    """Steps between the points of a curve."""
    test_images: int = 2000
    """Test images of each point, the first ones."""
    targets: FloatList = (0.35, 0.4)
    """kNN accuracies to which the seconds are told."""
    wan_rtt_ms: float | None = None
    """Round trip of a wide-area link that every edge goes through; without it there is none."""
    wan_mbit: float = 100.0
    """Megabits a second of that link, in each direction."""
    json: Path = RESULTS / "alternatives.jsonl"
    """File that gets a line a run; a curve that it holds of this machine and commit is not measured
    again."""
    redraw: bool = False
    """Show what the file holds instead of measuring."""

    def __post_init__(self) -> None:
        least = {"runs": 1, "steps": LEAST_STEPS, "every": 1, "test_images": 1, "batch_size": 1}
        for name, figure in least.items():
            if getattr(self, name) < figure:
                flag = name.replace("_", "-")
                raise ValueError(f"{flag} {getattr(self, name)}; give at least {figure}")
        if not (self.wan_rtt_ms is None or 0 <= self.wan_rtt_ms < math.inf):
            raise ValueError(f"wan-rtt-ms {self.wan_rtt_ms}; give 0 or more, such as 50")
        if not 0 < self.wan_mbit < math.inf:
            raise ValueError(f"wan-mbit {self.wan_mbit}; give a figure above 0, such as 100")
        if self.batch_size % (4 * WORKERS):
            raise ValueError(
                f"batch size {self.batch_size} is not a multiple of {4 * WORKERS}, the most"
                " microbatches that are tried; give one that is"
            )

    @property
    def task(self) -> Task:
        """What all train."""
        flags = ["--model", self.model, "--data", self.data, "--batch-size", str(self.batch_size)]
        flags += ["--precision", "bf16", "--channels-last", "--decoder-depth", "0"]
        flags += ["--lr", str(self.lr)]
        if self.train_images is not None:
            flags += ["--train-images", str(self.train_images)]
        return Task(flags=tuple(flags), batch_size=self.batch_size)

    @property
    def curve(self) -> str:
        """What tells curves of the same task apart."""
        return f"{self.epochs} epochs, {self.test_images} test images, every {self.every} steps"

    @property
    def wan(self) -> Wan | None:
        """The wide-area link asked for."""
        if self.wan_rtt_ms is None:
            return None
        return Wan(rtt_ms=self.wan_rtt_ms, mbit=self.wan_mbit)


def rates(options: Options) -> Iterator[dict[str, Any]]:
    """One record a system and run; all systems in turn, so that a slow minute meets them all."""
    measures = systems()
    for run in range(options.runs):
        if options.wan is None:
            facts = {"link": NEAR, "run": run}
            conditions = Conditions(steps=options.steps)
            for record in measure_rates(measures, options.task, conditions):
                yield facts | record
            continue
        facts = {"link": options.wan.condition, "run": run}
        with options.wan.open() as proxy:
            conditions = Conditions(steps=options.steps, wan=proxy.control)
            for record in measure_rates(measures, options.task, conditions):
                yield facts | record


def curves(
    options: Options, records: Sequence[dict[str, Any]], here: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """One record for each learner of the newest rates from a processor with these bits that has no
    curve among the records which was measured here, by this code."""
    task, torch_threads = options.task, torch.get_num_threads()
    found = of_settings(records, task.settings, options.curve, bits=here["bits"])
    rated = of_newest_place([record for record in found if "system" in record])
    learners = {r["learner"]["name"]: Learner(**r["learner"]) for r in rated}
    known = {r["learner"] for r in found if "points" in r and place(r["header"]) == place(here)}
    torch.set_num_threads(1)
    try:
        for name in learners.keys() - known:
            learner = learners[name]
            run = task.resolved(*learner.flags, length=["--epochs", str(options.epochs)])
            data = load_run_data(run.config)
            _say(f"curve: {name}, {run.config.steps} steps")
            curve = Curve(run, data, every=options.every, test_images=options.test_images)
            learn(learner, run, data, curve.after_step)
            yield {
                "learner": name,
                "settings": task.settings,
                "curve": options.curve,
                "points": curve.points,
            }
    finally:
        torch.set_num_threads(torch_threads)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure, append JSON lines, and print a table of what one machine and commit measured."""
    console, results = make_console(), Results(options.json)
    if not options.redraw:
        options.task.resolved(*END_TO_END, length=["--epochs", str(options.epochs)])  # or refused
        facts = header()
        if options.only != "curves":
            for record in rates(options):
                _say(f"{record['system']}: {record['samples_per_s']:.0f} samples/s")
                results.append({"header": facts} | record)
        if options.only != "rates":
            for record in curves(options, results.read(), facts):
                results.append({"header": facts} | record)
    found = of_settings(results.read(), options.task.settings, options.curve)
    found = of_one_place(found, options.steps)
    print_headers(found, console)
    print_report(found, options.targets, console)
