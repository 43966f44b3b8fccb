"""How fast slept blocks can run: the same plans and draws on a simulated clock.

Owns the link between a slept job and the simulation, and the rate, counted as the runtime counts
its own. What the machine adds (links, processes, threads) is not here: that is the point.
"""

from runtime.core.messages import Phase
from runtime.testing.simulation import Simulation
from runtime.testing.slept import SleptConfig, SleptJob


def simulated_samples_per_s(config: SleptConfig, *, latency_s: float = 0.0) -> float:
    """Return the samples a second of the slowest worker, its first step left out as warm-up.

    Handing a message over takes `latency_s` and nothing else takes any time. This bounds what a
    real run with this lag, these windows and these stalls can reach.
    """
    job, block_s = SleptJob(config), config.make_duration_s()

    def duration_s(k: int, phase: Phase, step: int) -> float:
        share = {Phase.FORWARD: config.forward_share, Phase.UPDATE: 1.0 - config.forward_share}
        return block_s(k, step) * share.get(phase, 0.0)

    simulation = Simulation(
        [job.plan(k) for k in range(config.workers)],
        duration_s=duration_s,
        latency_s=lambda _from, _to: latency_s,
    )
    simulation.run()
    rates = []
    for worker in simulation.workers:
        ends_s = [t for t, phase, _ in worker.computed if phase is Phase.APPLY]  # it takes no time
        rates.append(job.batch_size * (len(ends_s) - 1) / (ends_s[-1] - ends_s[0]))
    return min(rates)
