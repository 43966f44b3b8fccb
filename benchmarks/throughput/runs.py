"""How close the pipeline comes to its ceiling, beside lock-step schedules on the same work.

    python -m benchmarks.throughput --blocks sleep --baselines --workers 2,4,8 --message-mb 1,64
    python -m benchmarks.throughput --baselines --jitter exponential:0.2,rare:0.02x10 --imbalance
    python -m benchmarks.throughput --baselines --wan-rtt-ms 50 --lag 2 --window 3
    python -m benchmarks.throughput --blocks real --baselines

Every figure of ours is the runtime's own, and each stands beside its ceiling: the slowest block
(real ones are timed alone behind the run, while the other cores time others), and under stalls the
simulated run with the same draws, lag and windows. Baselines are torch.distributed.pipelining's
schedules on gloo, each with its best number of microbatches.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from benchmarks.harness import FloatList, Results, TextList, header, make_console, print_header
from benchmarks.throughput.real import Chosen, RealCase, best_for_real, run_real, run_real_baselines
from benchmarks.throughput.report import print_report
from benchmarks.throughput.slept import (
    SleptCase,
    Wan,
    best_for_slept,
    run_baselines,
    run_slept,
    slept_cases,
)
from launch.config import IntList
from runtime.testing.slept import SleptConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    blocks: Literal["sleep", "real"] = "sleep"
    """Blocks that sleep (real overlap, idle cores), or the default network's."""
    workers: IntList = ()
    """Numbers of workers; 4 with slept blocks, 2 with real ones."""
    steps: int | None = None
    """Steps of a run; 150 with slept blocks, 60 with real ones."""
    runs: int = 3
    """Runs of each case."""
    step_ms: float = 60.0
    """Milliseconds that a slept block sleeps a step, a third of them in its home's forward."""
    message_mb: FloatList = (1.0,)
    """Megabytes of each activation of slept blocks."""
    tie_mb: float = 1.0
    """Megabytes of each tie message, one up and one down a step: these are a guest's weights,
    whatever the size of the activations."""
    lag: int = 1
    """Lag of the elastic tie."""
    window: int = 2
    """Activations in flight on an edge."""
    link: str = "shm"
    """Link between slept blocks."""
    baselines: bool = False
    """Whether to run lock-step schedules on the same blocks."""
    jitter: TextList = ()
    """Stalls of slept blocks, each a case of its own: exponential:0.2 (mean, in block times),
    rare:0.02x10 (how often, how many block times)."""
    imbalance: bool = False
    """Whether to measure also with one block, in the middle, 2x slower."""
    wan_rtt_ms: float | None = None
    """Round trip of a wide-area link, to measure also with every edge through one."""
    wan_mbit: float = 1000.0
    """Megabits a second of that link, in each direction."""
    json: Path | None = None
    """File that gets a JSON line a run."""

    def __post_init__(self) -> None:
        is_slept_only = self.jitter or self.imbalance or self.wan is not None
        if self.blocks == "real" and is_slept_only:
            raise ValueError(
                "jitter, imbalance and a wide-area link are of blocks that sleep;"
                " give --blocks sleep"
            )
        if self.blocks == "real" and self.baselines and self.workers not in ((), (2,)):
            raise ValueError(
                f"baselines on {','.join(map(str, self.workers))} workers; the default network has"
                " units for two stages a rank on 2 only: give --workers 2, or --blocks sleep"
            )

    @property
    def wan(self) -> Wan | None:
        """The wide-area link asked for."""
        if self.wan_rtt_ms is None:
            return None
        return Wan(rtt_ms=self.wan_rtt_ms, mbit=self.wan_mbit)


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """All runs of all cases, in turn, so that a slow minute of the machine meets every case."""
    measure_blocks = _measure_slept if options.blocks == "sleep" else _measure_real
    with tempfile.TemporaryDirectory() as directory:
        yield from measure_blocks(options, Path(directory))


def _measure_slept(options: Options, directory: Path) -> Iterator[dict[str, Any]]:
    cases = [
        case
        for workers in options.workers or (4,)
        for message_mb in options.message_mb
        for case in slept_cases(
            slept_config(options, workers, message_mb),
            jitters=options.jitter,
            imbalance=options.imbalance,
            wan=options.wan,
        )
    ]
    microbatches: dict[SleptCase, dict[str, int]] = {}
    for run in range(options.runs):
        for i, case in enumerate(cases):
            _say(f"run {run + 1} of {options.runs}: {case.facts}")
            yield from run_slept(case, run, directory / f"{run}-{i}")
            if not options.baselines:
                continue
            if case.calm not in microbatches:
                microbatches[case.calm], tried = best_for_slept(case)
                yield tried
            yield from run_baselines(case, run, microbatches[case.calm])


def slept_config(options: Options, workers: int, message_mb: float) -> SleptConfig:
    """Slept blocks without stalls."""
    return SleptConfig(
        workers=workers,
        steps=options.steps or 150,
        step_s=options.step_ms / 1e3,
        forward_share=1 / 3,
        activation_bytes=_whole_floats(message_mb),
        tie_bytes=_whole_floats(options.tie_mb),
        lag=options.lag,
        window=options.window,
        link=options.link,
    )


def _whole_floats(megabytes: float) -> int:
    return int(megabytes * 1e6) // 4 * 4


def _measure_real(options: Options, directory: Path) -> Iterator[dict[str, Any]]:
    microbatches: dict[RealCase, Chosen] = {}
    for run in range(options.runs):
        for workers in options.workers or (2,):
            case = RealCase(
                workers=workers,
                steps=options.steps or 60,
                lag=options.lag,
                window=options.window,
            )
            _say(f"run {run + 1} of {options.runs}: real blocks, {workers} workers")
            ours = list(run_real(case, run, directory / f"{run}-{workers}"))
            yield from ours
            if not options.baselines:
                continue
            if case not in microbatches:
                microbatches[case], tried = best_for_real(case)
                yield tried
            yield from run_real_baselines(case, run, microbatches[case], ours)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure, append JSON lines if asked to, and print a table."""
    facts = header()
    print_header(facts, make_console())
    results = Results(options.json) if options.json is not None else None
    records = []
    for record in measure(options):
        records.append(record)
        if results is not None:
            results.append({"header": facts} | record)
    print_report(records, make_console())
