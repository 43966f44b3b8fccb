"""What the throughput benchmark runs: each system on each case, as one record a run.

Owns the cases, the commands and what a record holds. Knows nothing of flags or tables.

All systems do the same work a batch: block k takes `SleptConfig.make_duration_s()(k, step)`, a
third of it forward. A lock-step schedule splits that evenly over its microbatches (and over the
two stages that zero-bubble schedules cut a block into), stalls included, which favours it: a stall
at one place would be waited for by all.
"""

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT
from benchmarks.lock_step import run_lock_step
from benchmarks.lock_step_rank import SCHEDULES, LockStepCase
from benchmarks.wan_proxy import WanProxy
from runtime.testing.slept import SleptConfig
from runtime.testing.slept_simulation import simulated_samples_per_s

TIMEOUT_S = 900
PROBE_STEPS = 8  # batches by which a schedule's number of microbatches is chosen
MICROBATCHES_A_RANK = (1, 2, 4)
UNDISTURBED = "undisturbed"
ONE_PROCESS = "one process, block after block (computed)"


@dataclass(frozen=True, kw_only=True)
class Wan:
    """A wide-area link, the same for every edge and direction."""

    rtt_ms: float
    mbit: float

    @property
    def condition(self) -> str:
        return f"round trip {self.rtt_ms:g} ms, {self.mbit:g} Mbit/s"

    def open(self) -> WanProxy:
        """The proxy that every edge goes through, to be entered."""
        return WanProxy(rtt_s=self.rtt_ms / 1e3, bits_per_s=self.mbit * 1e6)


@dataclass(frozen=True, kw_only=True)
class SleptCase:
    """Slept blocks under one condition; `config` says what every system has to do."""

    condition: str
    config: SleptConfig
    wan: Wan | None = None

    @contextmanager
    def opened(self) -> Iterator[str]:
        """Open the wide-area link, if there is one; yields its proxy's control address, or ""."""
        if self.wan is None:
            yield ""
            return
        with self.wan.open() as proxy:
            yield proxy.control

    def seeded(self, run: int) -> SleptConfig:
        """The work of one run: each draws its own stalls, the same for all systems."""
        return replace(self.config, jitter_seed=run)

    @property
    def calm(self) -> "SleptCase":
        """The case without stalls: those that share it share the numbers of microbatches."""
        return replace(self, condition="", config=replace(self.config, jitter=""))

    @property
    def facts(self) -> dict[str, Any]:
        """What tells its records from those of other cases."""
        size_mb = self.config.activation_bytes / 1e6
        return {
            "blocks": "sleep",
            "workers": self.config.workers,
            "message_mb": round(size_mb, 3),
            "tie_mb": round(self.config.tie_bytes / 1e6, 3),
            "condition": self.condition,
            "steps": self.config.steps,
        }


def slept_cases(
    config: SleptConfig, *, jitters: Sequence[str], imbalance: bool, wan: Wan | None = None
) -> list[SleptCase]:
    """The undisturbed case first, which the others are compared with."""
    cases = [SleptCase(condition=UNDISTURBED, config=config)]
    for jitter in jitters:
        stalled = replace(config, jitter=jitter)
        cases.append(SleptCase(condition=f"stalls {jitter}", config=stalled))
    if imbalance:
        slow = replace(config, slow_block=config.workers // 2)
        condition = f"block {slow.slow_block} {slow.slow_factor:g}x slower"
        cases.append(SleptCase(condition=condition, config=slow))
    if wan is not None:
        far = replace(config, link="zmq-tcp")
        cases.append(SleptCase(condition=wan.condition, config=far, wan=wan))
    return cases


def ceiling(config: SleptConfig, wan: Wan | None = None) -> tuple[str, float]:
    """What bounds our runtime in samples a second, and its name.

    Over a wide-area link that may be the upward line, which carries activations and ties; a
    lock-step schedule has half of that to carry.
    """
    if config.jitter:
        name = f"simulated, lag {config.lag}, window {config.window}"
        return name, simulated_samples_per_s(config)
    compute = 1 / max(config.block_s(k) for k in range(config.workers))
    if wan is None:
        return "slowest block", compute
    line = wan.mbit * 1e6 / 8 / (config.activation_bytes + config.tie_bytes)
    return ("slowest block", compute) if compute < line else ("bandwidth", line)


def one_process_samples_per_s(config: SleptConfig) -> float:
    """Samples a second of one process that computes the blocks one after another."""
    duration_s = config.make_duration_s()
    steps = range(1, config.steps)  # without the first, as all rates
    blocks = range(config.workers)
    return len(steps) / math.fsum(duration_s(k, step) for k in blocks for step in steps)


def run_slept(case: SleptCase, run: int, run_dir: Path) -> Iterator[dict[str, Any]]:
    """Our runtime, and one process alone; one record each."""
    config = case.seeded(run)
    name, bound = ceiling(config, case.wan)
    facts = case.facts | {"run": run, "ceiling": name, "ceiling_samples_per_s": bound}
    command = [sys.executable, "-m", "benchmarks.slept", json.dumps(asdict(config)), str(run_dir)]
    with case.opened() as control:
        summary = run_once([*command, control] if control else command, run_dir)
    yield facts | {
        "system": f"this runtime, lag {config.lag}, window {config.window}",
        "link": config.link,
        "samples_per_s": summary["samples_per_s"],
        "summary": summary,
    }
    yield facts | {
        "system": ONE_PROCESS,
        "samples_per_s": one_process_samples_per_s(config),
    }


def best_microbatches(case: SleptCase) -> tuple[dict[str, int], dict[str, dict[int, float]]]:
    """Return each schedule's fastest number of microbatches, from a few batches without stalls,
    and the samples a second of all that were tried."""
    probes = [
        LockStepCase(
            schedule=name,
            microbatches=factor * case.config.workers,
            config=replace(case.calm.config, steps=PROBE_STEPS),
        )
        for name in SCHEDULES
        for factor in MICROBATCHES_A_RANK
    ]
    tried: dict[str, dict[int, float]] = {name: {} for name in SCHEDULES}
    with case.opened() as control:
        timings = run_lock_step(probes, wan=control)
    for probe, timing in zip(probes, timings, strict=True):
        tried[probe.schedule][probe.microbatches] = timing.batches_per_s
    return {name: max(rates, key=rates.__getitem__) for name, rates in tried.items()}, tried


def run_baselines(
    case: SleptCase, run: int, microbatches: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Each lock-step schedule, with its own number of microbatches; one record each."""
    config = case.seeded(run)
    name, bound = ceiling(config, case.wan)
    cases = [
        LockStepCase(schedule=schedule, microbatches=m, config=config)
        for schedule, m in microbatches.items()
    ]
    with case.opened() as control:
        timings = run_lock_step(cases, wan=control)
    for schedule, timing in zip(cases, timings, strict=True):
        yield case.facts | {
            "run": run,
            "ceiling": name,
            "ceiling_samples_per_s": bound,
            "system": schedule.schedule,
            "microbatches": schedule.microbatches,
            "samples_per_s": timing.batches_per_s,
            "slept_s": timing.slept_s,
        }


def real_commands(
    workers: int, *, steps: int, lag: int, window: int, run_dir: Path
) -> dict[str, list[str]]:
    """The main job with overlap and without, and the same blocks in one process."""
    flags = ["--workers", str(workers), "--steps", str(steps)]
    timed = ["--time-alone-s", "6"]
    loco = ["--lag", str(lag), "--window", str(window), *timed]
    gim = ["--overlap", "0", "--tie", "none"]
    launch = ROOT / "launch"
    cases = {
        f"LoCo, {workers} workers": ("pipeline.py", loco),
        f"GIM, {workers} workers": ("pipeline.py", [*gim, *timed]),
        "GIM, one process, all cores": ("sequential.py", [*gim, "--threads", "2"]),
    }
    return {
        name: [
            sys.executable,
            str(launch / script),
            *flags,
            *case,
            "--run-dir",
            str(run_dir / name),
        ]
        for name, (script, case) in cases.items()
    }


def run_real(
    workers: int, run: int, *, steps: int, lag: int, window: int, run_dir: Path
) -> Iterator[dict[str, Any]]:
    """The default network's blocks, each system in turn; one record each."""
    commands = real_commands(workers, steps=steps, lag=lag, window=window, run_dir=run_dir)
    for name, command in commands.items():
        summary = run_once(command, Path(command[-1]))
        yield {
            "blocks": "real",
            "workers": workers,
            "condition": UNDISTURBED,
            "steps": steps,
            "run": run,
            "system": name,
            "samples_per_s": summary["samples_per_s"],
            "ceiling": "slowest block, timed alone",
            "ceiling_samples_per_s": summary["ceiling_samples_per_s"],
            "summary": summary,
        }


def run_once(command: Sequence[str], run_dir: Path) -> dict[str, Any]:
    """Run a command that leaves a run directory; return its summary."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary
