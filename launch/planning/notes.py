"""What the user should know of a run before it starts.

Owns the sentences. What they stand on is found elsewhere.
"""

import dataclasses

from launch.config import show
from launch.planning.costs import counted_costs
from launch.planning.rates import edge_rates
from launch.planning.resolved import Resolved


def notes_on(resolved: Resolved) -> list[str]:
    """Short notes, each a line; most runs have none."""
    rate = (_shared_gpus(resolved), _slow_source(resolved), _slow_ties(resolved))
    return [*notes_on_result(resolved), *(note for note in rate if note is not None)]


def notes_on_result(resolved: Resolved) -> list[str]:
    """Those that hold for one process, too: not of how fast the workers are."""
    found = (_validation(resolved), _measured(resolved), _not_reproducible(resolved))
    return [*(note for note in found if note is not None), *resolved.remarks]


def _shared_gpus(resolved: Resolved) -> str | None:
    gpus, workers = resolved.gpus, resolved.workers_per_host
    if resolved.config.device == "cpu" or gpus >= workers:
        return None
    shared = "the one GPU of their host" if gpus == 1 else f"the {gpus} GPUs of their host"
    return f"{workers} workers share {shared} and take turns there: no speed-up is to be expected"


def _validation(resolved: Resolved) -> str | None:
    share = resolved.config.validation
    if not share:
        return None
    return (
        f"validation {share}: what is called test here are training images that are held out, and"
        f" {resolved.num_train:,} are left to train on"
    )


def _measured(resolved: Resolved) -> str | None:
    if resolved.measured is None:
        return None
    cuts = show(resolved.config.cuts)
    return (
        f"cuts {cuts} follow from times measured now; repeat this run by its config.toml, which"
        " holds them"
    )


def _slow_source(resolved: Resolved) -> str | None:
    """Whether block 0 takes longer for its batch than any block for what it learns; if that alone
    was timed, than itself."""
    costs = resolved.measured
    if costs is None:
        return _slower_than_block_0(resolved)
    learning = dataclasses.replace(costs, source=0.0)
    steps = [learning.of(block).step for block in resolved.partition.blocks]
    if costs.source <= max(steps):
        return None
    return (
        f"the source is the slowest stage: block 0 takes {costs.source * 1e3:.1f} ms a step for its"
        f" batch and the views of it, and the slowest block {max(steps) * 1e3:.1f} ms for what it"
        f" learns (block {steps.index(max(steps))}); lighter --views, or more --threads, would"
        " make the run faster"
    )


def _slower_than_block_0(resolved: Resolved) -> str | None:
    source_s, learning_s = resolved.source_s, resolved.learning_s
    if source_s is None or learning_s is None or source_s <= learning_s:
        return None
    return (
        f"the source is slow: block 0 takes {source_s * 1e3:.1f} ms a step for its batch and the"
        f" views of it, and {learning_s * 1e3:.1f} ms for what it learns; lighter --views, or more"
        " --threads, would make the run faster, unless another block is slower still"
    )


def _slow_ties(resolved: Resolved) -> str | None:
    """The edges at which blocks wait for each other, even over links without latency."""
    config = resolved.config
    if config.longest_lag >= 1:
        return None  # f <= T and C <= T are all that is asked for: a window holds two
    costs = resolved.measured or counted_costs(resolved)
    slow = [edge for edge in edge_rates(resolved, costs) if edge.slowness > 1]
    if not slow:
        return None
    worst = max(slow, key=lambda edge: edge.slowness)
    by = "measured times" if costs.measured else "counted FLOPs"
    return (
        f"lag {config.lag} makes neighbours wait: by {by}, edge {worst.edge}-{worst.edge + 1}"
        f" allows {1 / worst.slowness:.0%} of full rate at most; --lag {worst.least_lag} would"
        " allow all of it"
    )


def _not_reproducible(resolved: Resolved) -> str | None:
    config = resolved.config
    if not config.free_ties:
        return None
    return (
        "free ties: each step takes the ties that have arrived, so this run can't be reproduced;"
        f" only ties over {config.longest_lag} steps old are waited for, and how old they were is"
        " measured"
    )
