"""Slept blocks in the throughput benchmark: each system on each case, as one record a run.

Owns the cases, the commands and what a record holds. Knows nothing of flags or tables.

All systems do the same work a batch: block k takes `SleptConfig.make_duration_s()(k, step)`, a
third of it forward. A lock-step schedule splits that evenly over its microbatches (and over the
two stages that zero-bubble schedules cut a block into), stalls included, which favours it: a stall
at one place would be waited for by all.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import run_once
from benchmarks.lock_step.slept_work import SleptWork
from benchmarks.scale.slept_simulation import simulated_samples_per_s
from benchmarks.throughput.baselines import best_microbatches, run_schedules
from benchmarks.wan.proxy import WanProxy
from runtime.testing.slept import SleptConfig

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
    command = [sys.executable, "-m", "benchmarks.scale.slept_run", json.dumps(asdict(config))]
    with case.opened() as control:
        far = [control] if control else []
        summary = run_once([*command, str(run_dir), *far], run_dir)
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


def best_for_slept(case: SleptCase) -> tuple[dict[str, int], dict[str, Any]]:
    """Return each schedule's number of microbatches on slept blocks without stalls, and the record
    of what was tried."""
    config = case.calm.config
    with case.opened() as control:
        best, tried = best_microbatches(
            lambda steps: SleptWork(config=replace(config, steps=steps)), wan=control
        )
    return best, case.facts | {"probes": tried}


def run_baselines(
    case: SleptCase, run: int, microbatches: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Each lock-step schedule, with its own number of microbatches; one record each."""
    config = case.seeded(run)
    name, bound = ceiling(config, case.wan)
    facts = case.facts | {"run": run, "ceiling": name, "ceiling_samples_per_s": bound}
    with case.opened() as control:
        for named, timing in run_schedules(SleptWork(config=config), microbatches, wan=control):
            measured = {"samples_per_s": timing.batches_per_s, "slept_s": timing.slept_s}
            yield facts | named | measured
