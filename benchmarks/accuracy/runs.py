"""What local learning costs in accuracy: every tie against end-to-end training, over many seeds.

    python -m benchmarks.accuracy                      the digits, which need no path
    python -m benchmarks.accuracy --quick              one epoch, two seeds
    python -m benchmarks.accuracy --regime cifar10 --path DIR       real images; hours
    python -m benchmarks.accuracy --regime cifar10 --path DIR --what searched
    python -m benchmarks.accuracy --regime cifar10 --path DIR --what explored

What is compared is in benchmarks/accuracy/regimes.py. Owns how: everything but the method is equal
for all. Of the digits seed i trains on split i, so that five seeds test each once. Runs are the
sequential reference's, which the distributed runtime equals bit for bit. The results file gets a
line a run, and what it holds is not run again; the table and a picture lie beside it.

Bits depend on the kind of processor, so methods are compared on runs of one kind: a seed of which
the file holds a part, from another kind, is run again here.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from benchmarks.accuracy import report
from benchmarks.accuracy.regimes import REGIMES, Regime, Settings
from benchmarks.harness import RESULTS, Results, header, make_console, print_header
from launch.config import ConfigError, RunConfig
from launch.config_file import to_toml
from runtime.lifetime import die_with_parent

if TYPE_CHECKING:
    from launch.planning.resolved import Resolved

USUAL_SEEDS = 5
SEARCH_SEED = 100  # of no comparison
SEARCH_SHARE = 0.1  # of the training images, held out in place of the test images

What = Literal["compared", "explored", "searched"]
Key = tuple[str, int, str]  # of a run: method, seed, config
Record = Mapping[str, Any]

AtLeastOne = Annotated[int | None, Parameter(validator=Number(gte=1))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One run: a method on one seed. `data` names the data in records, without their path."""

    method: str
    seed: int
    config: RunConfig
    data: str

    @property
    def key(self) -> Key:
        """What makes it the same run as one in a file."""
        return self.method, self.seed, self.config_toml

    @property
    def config_toml(self) -> str:
        """The config as records have it."""
        return to_toml(dataclasses.replace(self.config, data=self.data))


def make_tasks(
    regime: Regime,
    methods: Mapping[str, Settings],
    seeds: Sequence[int],
    *,
    path: Path | None = None,
    **changes: Any,
) -> list[Task]:
    """List all runs, seed by seed, so that an interrupted file holds whole pairs.

    `changes` go into every method's config.
    """
    name = regime.layout or "digits"
    usual = {"device": "cpu", "threads": 1, **regime.settings}
    usual["data"] = name if path is None else f"{name}:{path}"
    tasks = []
    for seed in seeds:
        split = seed % regime.num_splits if regime.num_splits else 0
        for method, settings in methods.items():
            config = RunConfig(**{**usual, "seed": seed, "split": split, **settings, **changes})
            tasks.append(Task(method=method, seed=seed, config=config, data=name))
    return tasks


def tasks_of(
    regime: Regime, seeds: Sequence[int], *, path: Path | None = None, **changes: Any
) -> dict[What, list[Task]]:
    """All runs of a regime by what they are for. Of what is explored only one of the `seeds` is run
    (`explored_here`)."""
    return {
        "compared": make_tasks(regime, regime.methods, seeds, path=path, **changes),
        "explored": make_tasks(regime, regime.explored, seeds, path=path, **changes),
        "searched": make_tasks(
            regime,
            regime.searched,
            [SEARCH_SEED],
            path=path,
            **{"validation": SEARCH_SHARE, **changes},
        ),
    }


def settings_in_words(config: RunConfig) -> str:
    """Say what all methods have in common."""
    names = ("epochs", "train_images", "batch_size", "optimizer", "lr", "temperature", "precision")
    values = {name: getattr(config, name) for name in names}
    shown = [f"{name.replace('_', ' ')} {v}" for name, v in values.items() if v is not None]
    return ", ".join([config.model, *shown, f"decoder depth {config.decoder_depth[-1]}"])


def _resolved(task: Task) -> "Resolved":
    """A run on one core. Raises ConfigError."""
    from launch.environment import Environment
    from launch.resolve import resolve
    from models.device import processor

    environment = Environment(
        world_size=None, local_world_size=None, cores=1, gpus=0, processor=processor()
    )
    return resolve(task.config, environment=environment)


def measure(task: Task) -> dict[str, Any]:
    """Train one run in this process and evaluate what it learned; returns its record."""
    import torch
    from threadpoolctl import threadpool_limits

    from launch.evaluated_units import evaluated_units
    from launch.job import build_blocks
    from launch.run_data import load_run_data
    from models.evaluation.unit_accuracy import evaluate
    from models.sequential import train

    torch.set_num_threads(task.config.threads or 1)
    resolved = _resolved(task)
    config = resolved.config
    data = load_run_data(config)
    blocks = build_blocks(resolved, data)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    assert config.lag is not None, "blocks that take turns have no free ties"
    train(blocks, num_steps=config.steps, lag=config.lag)
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    weights = {name: value for block in blocks for name, value in block.home_state().items()}
    with threadpool_limits(1):
        chosen = evaluated_units(resolved.partition, num_train=len(data.train_labels))
        units = evaluate(resolved.network, weights, data, units=chosen)
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
        "processor": config.processor,
        "config": task.config_toml,
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


def key_of(record: Record) -> Key:
    """Return the key of the task that a record is the result of."""
    return record["method"], record["seed"], record["config"]


def runs_in(results: Results) -> list[Record]:
    """The records of runs; files of earlier versions also have one of the machine."""
    return [record for record in results.read() if "method" in record]


def by_processor(records: Iterable[Record]) -> dict[tuple[int, str], dict[Key, Record]]:
    """The records of each seed and kind of processor, by the key of their task."""
    found: dict[tuple[int, str], dict[Key, Record]] = {}
    for record in records:
        place = record["seed"], record.get("processor", "")
        found.setdefault(place, {}).setdefault(key_of(record), record)
    return found


def find_missing(tasks: Sequence[Task], results: Results, processor: str) -> list[Task]:
    """List the tasks without a record of this kind of processor, but for the seeds of which another
    kind has all; a record of another config doesn't count."""
    found = by_processor(runs_in(results))
    whole = {
        seed
        for (seed, _), records in found.items()
        if records.keys() >= {task.key for task in tasks if task.seed == seed}
    }
    return [
        task
        for task in tasks
        if task.seed not in whole and task.key not in found.get((task.seed, processor), {})
    ]


def explored_here(
    tasks: Mapping[What, Sequence[Task]], results: Results, processor: str
) -> list[Task]:
    """The explored runs of the first seed of which this kind of processor has all that is compared:
    they are shown beside those. Without any, of the first seed."""
    found = by_processor(runs_in(results))
    seeds = list(dict.fromkeys(task.seed for task in tasks["compared"]))
    whole = [
        seed
        for seed in seeds
        if found.get((seed, processor), {}).keys()
        >= {task.key for task in tasks["compared"] if task.seed == seed}
    ]
    chosen = [*whole, seeds[0]][0]
    return [task for task in tasks["explored"] if task.seed == chosen]


def whole_seeds(records: Iterable[Record], methods: Collection[str]) -> list[Record]:
    """The records of the seeds of which one kind of processor has all methods, and of that kind
    alone: of several, the one with most runs, and of these the first."""
    chosen: dict[int, list[Record]] = {}
    for (seed, _), found in by_processor(records).items():
        own = list(found.values())
        is_whole = {record["method"] for record in own} >= set(methods)
        if is_whole and len(own) > len(chosen.get(seed, ())):
            chosen[seed] = own
    return [record for own in chosen.values() for record in own]


def accuracy(
    *,
    regime: str = "digits",
    path: Path | None = None,
    images: str | None = None,
    seeds: Annotated[int, Parameter(validator=Number(gte=2))] = USUAL_SEEDS,
    epochs: AtLeastOne = None,
    jobs: AtLeastOne = None,
    json: Path | None = None,
    quick: bool = False,
    what: What = "compared",
) -> None:
    """Train every method on every seed and print the table.

    Parameters
    ----------
    regime
        What is trained on: digits, cifar10 or fashion.
    path
        Where the data of the regime lie.
    images
        How the table names the images, if those at the path are not the published ones.
    seeds
        Runs a method, at least 2; 5 test each digit once.
    epochs
        Passes over the training images, equal for all; without it the regime's.
    jobs
        Processes of one thread each; without it one a core.
    json
        File that receives a line a run.
    quick
        One epoch and two seeds, to see that all of it works.
    what
        Run the methods that are compared over seeds; or those that are explored with one seed each;
        or the searched settings, of which the regime's were chosen on a part of the training
        images.
    """
    from models.device import processor

    chosen = _regime(regime, path)
    if images is not None:
        chosen = dataclasses.replace(chosen, images=f"test images of {images}")
    changes = {"epochs": epochs or 1} if quick or epochs else {}
    tasks = tasks_of(chosen, range(2 if quick else seeds), path=path, **changes)
    results = Results(json or _usual_file(chosen, quick=quick, what=what))
    wanted = explored_here(tasks, results, processor()) if what == "explored" else tasks[what]
    console = make_console()
    here = header() | {"settings": settings_in_words(wanted[0].config)}
    print_header(here, console)
    missing = find_missing(wanted, results, processor())
    _run(missing, len(wanted), results, here, jobs or len(os.sched_getaffinity(0)), console)
    if what != "searched":
        _report(chosen, results, {t.key for t in tasks["compared"] + tasks["explored"]}, console)


def _regime(name: str, path: Path | None) -> Regime:
    if name not in REGIMES:
        raise ConfigError(f"no regime {name!r}; choose one of {', '.join(REGIMES)}")
    regime = REGIMES[name]
    if (path is None) != (regime.layout is None):
        what = (
            "needs the --path of its data" if regime.layout else "has its own data, without --path"
        )
        raise ConfigError(f"regime {name!r} {what}")
    return regime


def _usual_file(regime: Regime, *, quick: bool, what: What) -> Path:
    name = "accuracy" if regime.name == "digits" else f"accuracy-{regime.name}"
    name += "-search" if what == "searched" else ""
    return Path(f"runs/{name}-quick.jsonl") if quick else RESULTS / f"{name}.jsonl"


def _report(regime: Regime, results: Results, wanted: Collection[Key], console: Console) -> None:
    """Print the table of all whole seeds of the wanted runs, and write it and its picture beside
    the results."""
    own = [record for record in runs_in(results) if key_of(record) in wanted]
    records = whole_seeds(own, regime.methods)
    if len({record["seed"] for record in records}) < 2:
        console.print("a table takes two seeds of every method, each on one kind of processor")
        return
    first = dict(records[0]["header"])
    for name in ("commit", "machine"):
        first[name] = ", ".join(dict.fromkeys(r["header"][name] for r in records))
    kinds = {(record["seed"], record.get("processor", "not recorded")) for record in records}
    first["bits"] = "; ".join(f"seed {seed} {kind}" for seed, kind in sorted(kinds))
    found = report.summarise(records, regime)
    report.print_report(found, console)
    report.write_markdown(found, first, results.path.with_suffix(".md"))
    report.draw(found, results.path.with_suffix(".png"))
    console.print(f"\nruns: {results.path}, with .md and .png beside it", soft_wrap=True)


def _run(
    missing: Sequence[Task],
    num_tasks: int,
    results: Results,
    header: Mapping[str, str],
    num_jobs: int,
    console: Console,
) -> None:
    """Run what `results` lacks of `num_tasks`, a line of progress a run; each record has the
    `header`."""
    from launch.planning.notes import notes_on_result

    if missing:
        for note in notes_on_result(_resolved(missing[0])):  # or why no run could start
            console.print(f"note: {note}", soft_wrap=True)
    if len(missing) < num_tasks:
        console.print(f"{num_tasks - len(missing)} of {num_tasks} runs are there already")
    started_s = time.monotonic()
    for done, record in enumerate(measure_all(missing, num_jobs), start=1):
        results.append({"header": header} | record)
        left_s = (time.monotonic() - started_s) / done * (len(missing) - done)
        console.print(
            f"{num_tasks - len(missing) + done:3}/{num_tasks}  "
            f"{record['method']:<16} seed {record['seed']}  "
            f"linear {record['linear_top1']:.3f}  kNN {record['knn_top1']:.3f}  "
            f"{record['train_wall_s']:4.0f} s  about {left_s / 60:.0f} min left",
            highlight=False,
        )
