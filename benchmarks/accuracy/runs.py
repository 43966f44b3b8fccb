"""What local learning costs in accuracy: every tie against end-to-end training, over many seeds.

    python -m benchmarks.accuracy [--seeds 5] [--epochs N] [--jobs 2] [--json FILE]
    python -m benchmarks.accuracy --resume FILE     resumes an interrupted run
    python -m benchmarks.accuracy --quick           one epoch, two seeds: does it run?

Owns which methods are compared and how. Seed i trains on split i, so that five seeds test each of
the digits once. Everything but the method is the main job's default for all: equal epochs, and a
decoder of equal depth on each block. Runs are the sequential reference's, which the distributed
runtime equals bit for bit. FILE gets a line a run; the table and a picture lie beside it.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console

from benchmarks.accuracy import report
from benchmarks.harness import RESULTS, Results, header, make_console, print_header
from launch.config import RunConfig
from launch.config_file import to_toml
from runtime.lifetime import die_with_parent

METHODS: dict[str, dict[str, Any]] = {
    "end-to-end": {"method": "e2e"},
    "GIM": {"overlap": 0, "tie": "none"},
    "untied": {"tie": "none"},
    "LoCo exact": {"tie": "gradient", "lag": 0},
    "gradient, lag 1": {"tie": "gradient", "lag": 1},
    "gradient, lag 4": {"tie": "gradient", "lag": 4},
    "elastic, lag 1": {"tie": "elastic", "lag": 1},
    "elastic, lag 4": {"tie": "elastic", "lag": 4},
}
"""What each method changes in the default config."""

LAGS: dict[str, dict[str, Any]] = {
    f"{tie}, lag {lag}": {"tie": tie, "lag": lag}
    for tie, lags in (("gradient", (2, 8)), ("elastic", (0, 2, 8)))
    for lag in lags
}
"""More lags, for benchmarks.lag; they are in no table of their own."""

NUM_SPLITS = 5
USUAL: dict[str, Any] = {"seeds": 5, "epochs": None, "json": RESULTS / "accuracy.jsonl"}
QUICK: dict[str, Any] = {"seeds": 2, "epochs": 1, "json": Path("runs/accuracy-quick.jsonl")}

app = App(
    name="accuracy",
    help=__doc__.partition("\n")[0],
    help_flags=["--help"],
    version_flags=[],
    default_parameter=Parameter(negative=""),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One run: a method on one seed."""

    method: str
    seed: int
    config: RunConfig

    @property
    def key(self) -> tuple[str, int, str]:
        """What makes it the same run as one in a file."""
        return self.method, self.seed, to_toml(self.config)


def make_tasks(
    num_seeds: int, *, methods: Mapping[str, dict[str, Any]] = METHODS, **changes: Any
) -> list[Task]:
    """List all runs, seed by seed, so that an interrupted file holds whole pairs.

    `changes` go into every method's config.
    """
    return [
        Task(
            method=method,
            seed=seed,
            config=RunConfig(
                **{
                    "device": "cpu",
                    "threads": 1,
                    "seed": seed,
                    "split": seed % NUM_SPLITS,
                    **settings,
                    **changes,
                }
            ),
        )
        for seed in range(num_seeds)
        for method, settings in methods.items()
    ]


def settings(config: RunConfig) -> str:
    """Say what all methods have in common."""
    names = ("epochs", "batch_size", "optimizer", "lr", "temperature", "alpha")
    shown = [f"{name.replace('_', ' ')} {getattr(config, name)}" for name in names]
    return ", ".join([config.model, *shown, f"decoder depth {config.decoder_depth[-1]}"])


def measure(task: Task) -> dict[str, Any]:
    """Train one run in this process and evaluate what it learned; returns its record."""
    import torch
    from threadpoolctl import threadpool_limits

    from launch.environment import Environment
    from launch.job import build_blocks
    from launch.resolve import resolve
    from models.data import load_data
    from models.evaluation import evaluate
    from models.sequential import train

    torch.set_num_threads(task.config.threads or 1)
    environment = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
    resolved = resolve(task.config, environment=environment)
    config = resolved.config
    data = load_data(config.data, seed=config.seed, split=config.split)
    blocks = build_blocks(resolved, data)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    assert config.lag is not None, "blocks that take turns have no free ties"
    train(blocks, num_steps=config.steps, lag=config.lag)
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    weights = {name: value for block in blocks for name, value in block.home_state().items()}
    with threadpool_limits(1):
        units = evaluate(resolved.network, weights, data)
    return {
        "method": task.method,
        "seed": task.seed,
        "linear_top1": units[-1].linear_top1,
        "knn_top1": units[-1].knn_top1,
        "units": [dataclasses.asdict(unit) for unit in units],
        "losses": [block.loss for block in blocks],
        "steps": config.steps,
        "train_wall_s": wall_s,
        "train_cpu_s": cpu_s,
        "config": to_toml(task.config),
    }


def measure_all(tasks: Sequence[Task], num_jobs: int) -> Iterator[dict[str, Any]]:
    """Yield each run's record as it ends, from `num_jobs` processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        num_jobs, mp_context=context, initializer=die_with_parent
    ) as pool:
        futures = [pool.submit(measure, task) for task in tasks]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def key_of(record: dict[str, Any]) -> tuple[str, int, str]:
    """Return the key of the task that a record is the result of."""
    return record["method"], record["seed"], record["config"]


def find_missing(tasks: Sequence[Task], results: Results) -> list[Task]:
    """List the tasks without a record; one of another config doesn't count."""
    have = {key_of(record) for record in results.read() if "method" in record}
    return [task for task in tasks if task.key not in have]


@app.default
def accuracy(
    *,
    seeds: Annotated[int | None, Parameter(validator=Number(gte=2))] = None,
    epochs: int | None = None,
    decoder_depth: int | None = None,
    jobs: int | None = None,
    json: Path | None = None,
    resume: Path | None = None,
    quick: bool = False,
    lags: bool = False,
) -> None:
    """Train every method on every seed and print the table.

    Parameters
    ----------
    seeds
        Runs a method, at least 2; 5 test each digit once.
    epochs
        Passes over the training images, equal for all; without it the main job's default.
    decoder_depth
        Residual conv blocks in every head; without it the main job's default.
    jobs
        Processes of one thread each; without it one a core.
    json
        File that receives a line a run; an old one is replaced.
    resume
        File of an interrupted run: what it holds stays, the rest is run.
    quick
        One epoch and two seeds, to see that all of it works.
    lags
        Train the lags that the table leaves out instead, for benchmarks.lag to draw.
    """
    usual = QUICK if quick else USUAL
    if lags:
        usual = {**usual, "json": usual["json"].with_name("accuracy-lags.jsonl")}
    changes: dict[str, Any] = {}
    if epochs := epochs or usual["epochs"]:
        changes["epochs"] = epochs
    if decoder_depth is not None:
        changes["decoder_depth"] = (decoder_depth,)
    methods = LAGS if lags else METHODS
    tasks = make_tasks(seeds or usual["seeds"], methods=methods, **changes)
    results = Results(resume or json or usual["json"])
    if not resume:
        results.path.unlink(missing_ok=True)
    console = make_console()
    here = header() | {"settings": settings(tasks[0].config)}
    print_header(here, console)
    if not any("header" in record for record in results.read()):
        results.append({"header": here})
    _run(tasks, results, jobs or len(os.sched_getaffinity(0)), console)
    if not lags:
        _report(results, {task.key for task in tasks}, console)


def _report(results: Results, wanted: set[Any], console: Console) -> None:
    """Print the table of the wanted runs, and write it and its picture beside the results."""
    records = [r for r in results.read() if "method" in r and key_of(r) in wanted]
    first = next(record["header"] for record in results.read() if "header" in record)
    found = report.summarise(records, tuple(METHODS))
    report.print_report(found, console)
    report.write_markdown(found, first, results.path.with_suffix(".md"))
    report.draw(found, results.path.with_suffix(".png"))
    console.print(f"\nruns: {results.path}, with .md and .png beside it", soft_wrap=True)


def _run(tasks: Sequence[Task], results: Results, num_jobs: int, console: Console) -> None:
    """Run what `results` lacks, a line of progress a run."""
    missing = find_missing(tasks, results)
    if len(missing) < len(tasks):
        console.print(f"{len(tasks) - len(missing)} of {len(tasks)} runs are there already")
    started_s = time.monotonic()
    for done, record in enumerate(measure_all(missing, num_jobs), start=1):
        results.append(record)
        left_s = (time.monotonic() - started_s) / done * (len(missing) - done)
        console.print(
            f"{len(tasks) - len(missing) + done:3}/{len(tasks)}  "
            f"{record['method']:<16} seed {record['seed']}  "
            f"linear {record['linear_top1']:.3f}  kNN {record['knn_top1']:.3f}  "
            f"{record['train_wall_s']:4.0f} s  about {left_s / 60:.0f} min left",
            highlight=False,
        )
