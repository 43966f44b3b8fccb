"""The curves of benchmarks.scale: slept blocks on many hosts, simulated with the real core.

Owns the cases, and what a record says of a simulated run. Knows nothing of flags or pictures.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.scale.network import Machine, Wire
from benchmarks.scale.slept_simulation import simulate, step_ends, steps_per_s
from runtime.testing.slept import SleptConfig

LAGS_AND_WINDOWS = ((0, 2), (1, 2), (4, 5))
SNAPSHOT_EVERY = 4  # the main job's


WARM_UP = 100
"""Steps left out. A worker begins just behind the one below, and is held up by whatever holds up
that one, until it has fallen as far behind as lag and window allow: with many workers that takes
some P steps, and with stalls 10 P. Until then the lowest still run ahead, and the steady rate lies
between theirs and the slowest's."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Hosts of `workers_per_host` workers, each on cores of its own, and the way between two."""

    machine: Machine
    wire: Wire
    between_hosts: Wire
    workers_per_host: int


@dataclass(frozen=True, kw_only=True)
class ScaleCase:
    """One point of one curve."""

    site: Site
    config: SleptConfig

    @property
    def curve(self) -> str:
        stalls = f", stalls {self.config.jitter}" if self.config.jitter else ""
        return f"lag {self.config.lag}, window {self.config.window}{stalls}"


def scale_cases(
    site: Site,
    *,
    workers: Sequence[int],
    steps: int,
    step_s: float,
    message_bytes: int,
    jitters: Sequence[str],
) -> Iterator[ScaleCase]:
    """Every number of workers, few first, with each lag, window and kind of stall; `steps` after
    those of the warm-up."""
    for num in workers:
        for jitter in jitters:
            for lag, window in LAGS_AND_WINDOWS:
                config = SleptConfig(
                    workers=num,
                    steps=WARM_UP + steps,
                    step_s=step_s,
                    forward_share=1 / 3,
                    activation_bytes=message_bytes,
                    tie_bytes=message_bytes,
                    lag=lag,
                    window=window,
                    link="auto",
                    snapshot_every=SNAPSHOT_EVERY,
                    jitter=jitter,
                )
                yield ScaleCase(site=site, config=config)


def simulate_case(case: ScaleCase) -> dict[str, Any]:
    """Simulate one case; its record. Bytes are the most at any time."""
    config, site = case.config, case.site
    was_enabled = gc.isenabled()
    gc.disable()  # a long heap of events, none of them in a cycle
    try:
        simulation = simulate(
            config,
            machine=site.machine,
            wire=site.wire,
            between_hosts=site.between_hosts,
            workers_per_host=site.workers_per_host,
        )
    finally:
        if was_enabled:
            gc.enable()
    ends_s = step_ends(simulation)
    slowest, lowest = (steps_per_s(own, warm_up=WARM_UP) for own in (ends_s, ends_s[:1]))
    retained, in_flight = simulation.most_retained_bytes, simulation.most_in_flight_bytes
    return {
        "curve": case.curve,
        "workers": config.workers,
        "steps": config.steps,
        "warm_up": WARM_UP,
        "step_s": config.step_s,
        "hosts": -(-config.workers // site.workers_per_host),
        "lag": config.lag,
        "window": config.window,
        "jitter": config.jitter,
        "steps_per_s": slowest,
        "share_of_full_rate": slowest * config.step_s,
        "share_of_lowest_worker": lowest * config.step_s,
        "fill_s": ends_s[-1][0],
        "wall_s": simulation.now_s,
        "retained_bytes_per_worker": max(retained),
        "retained_bytes": sum(retained),
        "in_flight_bytes_per_worker": max(in_flight),
        "in_flight_bytes": sum(in_flight),
    }
