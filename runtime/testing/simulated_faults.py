"""Random fault plans on the simulated network, and whether a run bears one.

Owns the drawing of a case with its faults, from one seed, and the verdict. What a fault does is
runtime.testing.faulty_simulation's.
"""

import random
from collections import Counter
from dataclasses import dataclass

from runtime.faults.plan import KINDS, Fault, draw
from runtime.testing.faulty_simulation import FaultySimulation
from runtime.testing.hashed_blocks import MESSAGE_BYTES, Case


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run met on its way to the right end."""

    faults: tuple[Fault, ...]
    fired: Counter[str]
    num_resent: int
    num_duplicates: int
    num_fenced: int


class PlanFailed(Exception):
    """A run did not end, or ended wrong; says with which seed and plan."""


def random_plan(seed: int) -> tuple[Case, tuple[Fault, ...]]:
    """Draw a case and one to six faults for it. One seed gives one plan, in every process."""
    rng = random.Random(seed)
    # Long and wide ones are dear and seldom show more.
    num_workers, num_steps = 2 + int(15 * rng.random() ** 2), 5 + int(21 * rng.random() ** 1.5)
    faults = tuple(
        draw(rng.choice(list(KINDS)), rng, num_workers=num_workers, steps=range(num_steps))
        for _ in range(rng.randint(1, 6))
    )
    case = Case(
        num_workers=num_workers,
        num_steps=num_steps,
        lag=rng.randint(0, 3),
        tied=rng.random() < 0.75,
        size=rng.randint(2, 4),
        slack_bytes=rng.choice([0, MESSAGE_BYTES, 5 * MESSAGE_BYTES]),
        spare=rng.choice([0, 0, 1, 3, 20]),
        snapshot_every=rng.randint(1, 5),
        checkpoint_every=rng.randint(0, 6),
        absent=frozenset((f.block or 0, f.step) for f in faults if f.kind == "nan"),
    )
    return case, faults


def run_plan(seed: int) -> Outcome:
    """Run the plan of a seed. Raises PlanFailed unless it ends as the plain loop does."""
    case, faults = random_plan(seed)
    rng = random.Random(-1 - seed)
    stop_s = rng.uniform(0.0, 0.5) if rng.random() < 0.15 else None
    simulation = FaultySimulation(case, faults, seed=rng.getrandbits(32), stop_s=stop_s)
    try:
        simulation.run()
        counted = simulation.judge()
    except Exception as error:
        told, *_ = str(error).splitlines() or [repr(error)]
        plan = ",".join(map(str, faults))
        raise PlanFailed(
            f"seed {seed}: {type(error).__name__}: {told}\n{case}\nfaults {plan}; stop {stop_s}"
        ) from error
    return Outcome(
        faults=faults,
        fired=simulation.fired,
        num_resent=counted["resent"],
        num_duplicates=counted["duplicates"],
        num_fenced=counted["fenced"],
    )
