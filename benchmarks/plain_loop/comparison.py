"""What one block that holds the whole network takes for a step, against a plain torch loop.

    python -m benchmarks.plain_loop

Both draw the same batches, with the same weights, and take their steps in turn, so that a slow
minute meets both. In the end the weights are compared: a loop that does the same work learns the
same bits. A block also feeds its probe, looks for numbers that are not finite, and keeps its
buffers for a step that it may leave out.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter

from benchmarks.end_to_end import EndToEnd, RunAdamW, loss_of
from benchmarks.harness import (
    Results,
    TextList,
    header,
    make_console,
    make_table,
    median_and_spread,
    print_header,
)
from launch.config import RunConfig
from launch.environment import Environment
from launch.job import build_block
from launch.planning.resolved import Resolved
from launch.resolve import resolve
from launch.run_data import load_run_data
from launch.source import make_source
from models.block import LocalBlock
from models.data import ImageData
from models.device import make_cuda_deterministic

WARM_UP = 2  # steps that are not counted
NUM_IMAGES = 512
KINDS: Mapping[str, dict[str, Any]] = {
    "fp32": {},
    "channels-last": {"channels_last": True},
    "bf16": {"precision": "bf16", "channels_last": True},
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare."""

    model: str = "resnet18-cifar"
    """Network."""
    image_size: int = 32
    """Height and width of its images, of three colours."""
    batch_size: int = 32
    """Images a step, each in two views."""
    steps: int = 24
    """Steps that count, of each."""
    threads: int = 2
    """Threads of both."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where both compute."""
    kinds: TextList = tuple(KINDS)
    """Of fp32, channels-last, bf16."""
    json: Path | None = None
    """File that gets a line a kind."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps {self.steps}; give at least 1")
        if not self.kinds:
            raise ValueError(f"no kinds; give some of {' '.join(KINDS)}")
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(f"kinds {' '.join(unknown)}; give some of {' '.join(KINDS)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device cuda, but there is no GPU here; leave --device out")


def resolved(options: Options, kind: str) -> Resolved:
    """The run of one end-to-end block."""
    config = RunConfig(
        method="e2e",
        model=options.model,
        data=f"synthetic:3x{options.image_size}x{options.image_size}x{NUM_IMAGES}",
        batch_size=options.batch_size,
        steps=WARM_UP + options.steps,
        threads=options.threads,
        device=options.device,
        **KINDS[kind],
    )
    gpus = torch.cuda.device_count() if options.device == "cuda" else 0
    alone = Environment(world_size=None, local_world_size=None, cores=options.threads, gpus=gpus)
    return resolve(config, environment=alone)


class PlainLoop:
    """The loop that anyone would write, on the run's network, head, loss, optimizer and data."""

    def __init__(self, run: Resolved, data: ImageData) -> None:
        self._run = run
        self._device = torch.device(run.config.device)
        self._source = make_source(run.config, data, device=run.config.device)
        self.model = EndToEnd(run).to(self._device)
        self._optimizer = RunAdamW(run, self.model)

    def step(self, step: int) -> None:
        """One step."""
        views_NCHW = self._source(step)[0].to(self._device)
        self._optimizer.zero_grad()
        loss_of(self._run, self.model(views_NCHW)).backward()
        self._optimizer.step(step)


def block_step(block: LocalBlock) -> Callable[[int], None]:
    """A block's whole step."""

    def step(step: int) -> None:
        block.forward(step, None)
        block.update(step)
        block.apply(step, None, None)

    return step


def wait_for_device(options: Options) -> None:
    """Until all that was asked of a GPU is done."""
    if options.device == "cuda":
        torch.cuda.synchronize()


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """One record a kind."""
    runs = {kind: resolved(options, kind) for kind in options.kinds}
    if options.device == "cuda":
        make_cuda_deterministic()
    torch.set_num_threads(options.threads)
    for kind, run in runs.items():
        data = load_run_data(run.config)
        loop, block = PlainLoop(run, data), build_block(run, 0, data)
        steps = {"loop": loop.step, "block": block_step(block)}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for index in range(run.config.steps):
            order = list(steps) if index % 2 else list(reversed(steps))
            for name in order:
                began_s = time.perf_counter()
                steps[name](index)
                wait_for_device(options)
                seconds[name].append(time.perf_counter() - began_s)
        learned = {name: value.cpu() for name, value in loop.model.network.state_dict().items()}
        state = {name: value.cpu() for name, value in block.home_state().items()}
        yield {
            "kind": kind,
            "model": options.model,
            "batch_size": options.batch_size,
            "seconds": {name: found[WARM_UP:] for name, found in seconds.items()},
            "same_bits": all(torch.equal(learned[name], state[name]) for name in state),
        }


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Compare them, print a row a kind, and exit with 1 if any learned other bits."""
    console = make_console()
    results = None if options.json is None else Results(options.json)
    here = header()
    print_header(here, console)
    table = make_table("kind", "loop, s", "block, s", "block / loop", "lowest", "highest", "bits")
    is_equal = True
    for record in measure(options):
        is_equal &= record["same_bits"]
        seconds = record["seconds"]
        pairs = zip(seconds["block"], seconds["loop"], strict=True)
        ratio = median_and_spread([block / loop for block, loop in pairs])
        table.add_row(
            record["kind"],
            *(f"{median_and_spread(seconds[name]).median:.3f}" for name in ("loop", "block")),
            *(f"{figure:.3f}" for figure in (ratio.median, ratio.lowest, ratio.highest)),
            "equal" if record["same_bits"] else "DIFFERENT",
        )
        if results is not None:
            results.append({"header": here, **record})
    console.print(table)
    sys.exit(0 if is_equal else 1)
