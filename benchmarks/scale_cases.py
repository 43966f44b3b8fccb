"""The curves of benchmarks.scale: slept blocks on many hosts, simulated with the real core.

Owns the cases, and what a record says of a simulated run. Knows nothing of flags or pictures.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.testing.network import Machine, Wire
from runtime.testing.slept import SleptConfig
from runtime.testing.slept_simulation import simulate, step_ends, steps_per_s

LAGS_AND_WINDOWS = ((0, 2), (1, 2), (4, 5))
SNAPSHOT_EVERY = 4  # the main job's


def warm_up_steps(workers: int) -> int:
    """Steps until the rate is steady, with room to spare.

    A worker begins just behind the one below, and is held up by whatever holds up that one, until
    it has fallen as far behind as lag and window allow: of P workers, all have after P/3 steps.
    """
    return 100 + workers // 2


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
    warm_up: int

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
        warm_up = warm_up_steps(num)
        for jitter in jitters:
            for lag, window in LAGS_AND_WINDOWS:
                config = SleptConfig(
                    workers=num,
                    steps=warm_up + steps,
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
                yield ScaleCase(site=site, config=config, warm_up=warm_up)


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
    rate = steps_per_s(ends_s, warm_up=case.warm_up)
    retained, in_flight = simulation.most_retained_bytes, simulation.most_in_flight_bytes
    return {
        "curve": case.curve,
        "workers": config.workers,
        "steps": config.steps,
        "warm_up": case.warm_up,
        "step_s": config.step_s,
        "hosts": -(-config.workers // site.workers_per_host),
        "lag": config.lag,
        "window": config.window,
        "jitter": config.jitter,
        "steps_per_s": rate,
        "share_of_full_rate": rate * config.step_s,
        "fill_s": ends_s[-1][0],
        "wall_s": simulation.now_s,
        "retained_bytes_per_worker": max(retained),
        "retained_bytes": sum(retained),
        "in_flight_bytes_per_worker": max(in_flight),
        "in_flight_bytes": sum(in_flight),
    }
