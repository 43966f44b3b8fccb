"""Whether a pipeline runs at the rate of its slowest block, edge by edge.

Owns both inequalities. With T the slowest block's step, C a block's, f its home's forward, L a
latency and W the activations in flight on an edge, full rate takes

    f_k + L_up + C_(k+1) + L_down <= (lag + 1) T    if a tie comes down,
    C_(k+1) + L_up + L_credit     <= W T.

Under free ties the lag is the staleness that is waited for. Latencies are left out: they are the
links' and not known before the start. What an edge leaves of its right side is what they may take.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from launch.planning.costs import Costs
from launch.planning.resolved import Resolved
from launch.planning.streams import edge_specs
from runtime.core.plan import Stream


@dataclass(frozen=True, kw_only=True)
class EdgeRate:
    """One edge's inequalities, in steps of the slowest block; `tie` is None without a tie."""

    edge: int
    tie: float | None
    tie_limit: int
    window: float
    window_limit: int

    @property
    def slowness(self) -> float:
        """What a step takes at least by this edge: above 1 it is slower than every block."""
        by_tie = 0.0 if self.tie is None else self.tie / self.tie_limit
        return max(by_tie, self.window / self.window_limit)

    @property
    def least_lag(self) -> int:
        """The smallest lag that would do."""
        return 0 if self.tie is None else max(0, math.ceil(self.tie) - 1)

    @property
    def latency(self) -> float:
        """How long each message may take, all alike, before the edge is too slow."""
        spare = [self.window_limit - self.window]
        spare += [] if self.tie is None else [self.tie_limit - self.tie]
        return max(0.0, min(spare) / 2)


def edge_rates(resolved: Resolved, costs: Costs) -> list[EdgeRate]:
    """Every edge's, lowest first."""
    config, blocks = resolved.config, [costs.of(block) for block in resolved.partition.blocks]
    slowest = max(block.step for block in blocks) or 1.0
    return [
        EdgeRate(
            edge=k,
            tie=(below.home_forward + above.step) / slowest
            if Stream.TIE_DOWN in edge_specs(resolved, k)
            else None,
            tie_limit=config.longest_lag + 1,
            window=above.step / slowest,
            window_limit=config.window,
        )
        for k, (below, above) in enumerate(pairwise(blocks))
    ]
