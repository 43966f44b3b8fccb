"""How much of their time a pipeline's workers idle: as measured, and by lock-step's formulas.

Owns the definitions. What is measured is the steady state. For each worker that is the time from
the end of its first `fill_steps` steps to the end of its last step, in its last generation.
Every worker has updated its block by then, so that filling does not count; and no worker waits for
another behind its last step, so that draining does not either. The bubble is the share of this
time, of all workers together, in which a worker waited for a neighbour: for input, credit or a
tie. Overhead and snapshots are work, and no part of it; nor is waiting for a core that others
hold, which a worker can't tell from computing.
"""

from collections.abc import Sequence

from runtime.core.plan import Stream
from runtime.job import Job
from runtime.records.schema import Seconds


def fill_steps(job: Job) -> int:
    """The steps after which no worker is still at its first one.

    A worker begins a step when there is credit for all that it made before. So it leads the one
    above by at most a window; summed over the edges, that is what the top worker lags.
    """
    edges = range(job.num_workers - 1)
    return 1 + sum(job.plan(k).outgoing[Stream.ACTIVATION].max_messages for k in edges)


def measured_bubble(steady: Sequence[Seconds | None]) -> float | None:
    """The bubble, given each worker's seconds in the steady state; None if one had no such."""
    known = [seconds for seconds in steady if seconds is not None]
    total_s = sum(seconds.total_s for seconds in known)
    if len(known) < len(steady) or not total_s:
        return None
    return sum(seconds.waited_s for seconds in known) / total_s


def lock_step_bubble(num_blocks: int, num_microbatches: int) -> float:
    """The share of a step that equal stages idle under GPipe (arXiv 1811.06965) or 1F1B."""
    return (num_blocks - 1) / (num_microbatches + num_blocks - 1)


def zero_bubble_bubble(num_blocks: int, num_microbatches: int) -> float:
    """The same under ZB-H1 (arXiv 2401.10241, table 2), which takes 1F1B's memory: it idles for
    (P - 1) (T_F + T_B - T_W), a third of 1F1B's if the three are equal."""
    return (num_blocks - 1) / (3 * num_microbatches + num_blocks - 1)
