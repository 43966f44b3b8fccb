"""How fast slept blocks can run: the same plans and draws on a simulated clock.

Owns the link between a slept job and the simulation, and the rate, counted as the runtime counts
its own. What a machine adds (loops, copies, links) is nothing unless it is given.
"""

from benchmarks.scale.network import Machine, Wire
from benchmarks.scale.timed_simulation import TimedSimulation
from runtime.core.messages import Phase
from runtime.testing.simulation import Duration, Simulation
from runtime.testing.slept import SleptConfig, SleptJob

StepEnds = list[list[float]]
"""For each worker, lowest first, when it ended each step, in seconds."""


def phase_duration_s(config: SleptConfig) -> Duration:
    """What each phase of slept blocks takes."""
    block_s = config.make_duration_s()
    share = {Phase.FORWARD: config.forward_share, Phase.UPDATE: 1.0 - config.forward_share}
    return lambda k, phase, step: block_s(k, step) * share[phase] if phase in share else 0.0


def simulated_samples_per_s(config: SleptConfig, *, latency_s: float = 0.0) -> float:
    """Return the samples a second of the slowest worker, its first step left out as warm-up.

    Handing a message over takes `latency_s` and nothing else takes any time. This bounds what a
    real run with this lag, these windows and these stalls can reach.
    """
    job = SleptJob(config)
    simulation = Simulation(
        [job.plan(k) for k in range(config.workers)],
        duration_s=phase_duration_s(config),
        latency_s=lambda _from, _to: latency_s,
    )
    simulation.run()
    return job.batch_size * steps_per_s(step_ends(simulation))


def simulate(
    config: SleptConfig,
    *,
    machine: Machine,
    wire: Wire,
    between_hosts: Wire | None = None,
    workers_per_host: int | None = None,
) -> TimedSimulation:
    """Run slept blocks on a simulated machine; `between_hosts` joins neighbours on two."""
    job = SleptJob(config)
    simulation = TimedSimulation(
        [job.plan(k) for k in range(config.workers)],
        duration_s=phase_duration_s(config),
        machine=machine,
        wire=wire,
        between_hosts=between_hosts,
        workers_per_host=workers_per_host,
    )
    simulation.run()
    return simulation


def simulated_step_ends(config: SleptConfig, *, machine: Machine, wire: Wire) -> StepEnds:
    """When each worker ends each step on one host."""
    return step_ends(simulate(config, machine=machine, wire=wire))


def step_ends(simulation: Simulation) -> StepEnds:
    """When each worker came to the end of each step: its apply takes no time of its own."""
    return [
        [t for t, phase, _ in worker.computed if phase is Phase.APPLY]
        for worker in simulation.workers
    ]


def steps_per_s(ends_s: StepEnds, *, warm_up: int = 1) -> float:
    """Steps a second of the slowest worker, from the end of its step `warm_up` - 1 on."""
    return min((len(own) - warm_up) / (own[-1] - own[warm_up - 1]) for own in ends_s)
