"""How much is retained of what was sent, how often a state is saved, and the bound on memory."""

import dataclasses
import math
from functools import cache

import pytest

from launch.config import DEFAULT_MAX_STALENESS, ConfigError, RunConfig
from launch.environment import Environment
from launch.job import build_block
from launch.planning.memory import choose_snapshot_every
from launch.planning.resolved import Resolved
from launch.planning.streams import (
    MOST_STEPS_BETWEEN_SNAPSHOTS,
    UPWARD,
    check_retention,
    choose_retain_mb,
    snapshot_bytes,
    worker_plan,
)
from launch.planning.workload import Workload
from launch.resolve import resolve
from runtime.core.plan import Free, Stream, WorkerPlan
from runtime.state.saving import PLACES

from ..runs import light

MACHINE = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)
IMAGE = "synthetic:1x8x8x4096"
SMALL = {"data": IMAGE, "model": "mlp", "batch_size": 4096, "steps": 9, "decoder_depth": (0,)}


@cache
def resolved() -> Resolved:
    return resolve(RunConfig(**SMALL, workers=3), environment=MACHINE)


def with_settings(**settings: object) -> Resolved:
    base = resolved()
    config = dataclasses.replace(base.config, **settings)
    return dataclasses.replace(base, config=config)


def kept_bytes(plan: WorkerPlan) -> int:
    return sum(w.max_retained * w.message_bytes for w in plan.outgoing.values())


@cache
def largest_least_mb() -> float:
    """What the worker that needs most must be able to retain, its snapshots included."""
    base, needed = resolved(), []
    for k in range(3):
        plan = worker_plan(base, k)
        least = sum(plan.min_retained(s) * w.message_bytes for s, w in plan.outgoing.items())
        needed.append(least + PLACES * snapshot_bytes(base, base.partition.blocks[k]))
    return max(needed) / 1e6 + 1e-3  # whole bytes, in spite of rounding


def test_retained_is_what_is_in_use_between_two_snapshots():
    """So the receiver is asked for one only if its own are late."""
    run = with_settings(snapshot_every=4, lag=3, window=5)
    for k in range(3):
        for stream, window in worker_plan(run, k).outgoing.items():
            in_flight, late = (4, 3) if stream is Stream.TIE_DOWN else (5, 0)
            assert window.max_messages == in_flight
            assert window.max_retained == 4 + in_flight + late


def test_neighbours_agree_on_what_each_other_retains():
    """However much of its bound each worker has left."""
    for k in range(3):
        plan = worker_plan(resolved(), k)
        for incoming, neighbour in ((UPWARD, k - 1), ((Stream.TIE_DOWN,), k + 1)):
            for stream in plan.incoming.keys() & set(incoming):
                retained = worker_plan(resolved(), neighbour).outgoing[stream].max_retained
                assert plan.incoming[stream].max_retained == retained is not None
        assert (Stream.ACTIVATION in plan.outgoing) == (k < 2)
        assert (Stream.TIE_DOWN in plan.outgoing) == (k > 0)


def test_plan_says_how_often_a_snapshot_is_taken():
    plan = worker_plan(with_settings(snapshot_every=3, checkpoint_every=7), 1)
    assert (plan.snapshot_every, plan.checkpoint_every) == (3, 7)


@pytest.mark.parametrize("share", [1.0, 1.3, 2.0, 5.0])
@pytest.mark.parametrize("every", [1, 4, 100])
def test_retained_is_less_if_memory_is_short_but_enough(share, every):
    """WorkerPlan itself refuses room that its window and lag can't do with."""
    run = with_settings(retain_mb=largest_least_mb() * share, snapshot_every=every)
    check_retention(run)
    for k in range(3):
        plan = worker_plan(run, k)
        for stream, window in plan.outgoing.items():
            assert window.max_retained >= plan.min_retained(stream)


def test_large_bound_is_respected():
    run = with_settings(retain_mb=5 * largest_least_mb(), snapshot_every=100)
    assert max(kept_bytes(worker_plan(run, k)) for k in range(3)) <= run.config.retain_mb * 1e6


def test_snapshots_are_as_rare_as_the_bound_allows():
    assert choose_snapshot_every(with_settings(retain_mb=1024)) == MOST_STEPS_BETWEEN_SNAPSHOTS
    assert choose_snapshot_every(with_settings(retain_mb=largest_least_mb())) == 1
    found = []
    for tenth in range(10, 120):
        run = with_settings(retain_mb=largest_least_mb() * tenth / 10)
        every = choose_snapshot_every(run)
        found.append(every)
        if every > 1:  # all of the room that this asks for is there
            full = dataclasses.replace(run.config, snapshot_every=every)
            plans = [worker_plan(dataclasses.replace(run, config=full), k) for k in range(3)]
            assert max(map(kept_bytes, plans)) <= run.config.retain_mb * 1e6
            rooms = {w.max_retained for plan in plans for w in plan.outgoing.values()}
            assert rooms <= {every + 2, every + 3}
    assert found == sorted(found)
    assert set(found) == {1, 2, 3, 4}


def test_snapshot_size_is_known_within_a_quarter():
    run = resolve(RunConfig(workers=4), environment=MACHINE)
    for k in range(4):
        block = build_block(run, k, None)
        parameters = sum(p.nbytes for name, p in block.state().items() if "optimizer" not in name)
        # Before the first step adamw has nothing; then it has two tensors a parameter.
        assert 0.9 < snapshot_bytes(run, run.partition.blocks[k]) / (3 * parameters) < 1.25


def test_bound_is_as_high_as_the_largest_worker_needs():
    """resnet34 and resnet50 could not start without --retain-mb, and what the refusal advised was
    enough for the first worker that had too little."""
    base = with_settings(retain_mb=None)
    needed_mb = largest_least_mb()

    def choose(workload: Workload, memory_bytes: float, workers_per_host: int = 4) -> int:
        return choose_retain_mb(
            workload,
            base.partition,
            workers_per_host=workers_per_host,
            memory_bytes=memory_bytes,
        )

    assert choose(base, math.inf) == 1024
    wide = dataclasses.replace(base, num_classes=10**6)
    enough = choose(wide, math.inf)
    fewer = choose(wide, 2e6 * enough)
    assert choose(wide, 2e6 * enough, workers_per_host=1) == enough, "a host needs room for its own"
    assert 1024 < PLACES * snapshot_bytes(wide, base.partition.blocks[0]) / 1e6 < fewer < enough
    given = dataclasses.replace(wide.config, retain_mb=enough)
    every = choose_snapshot_every(dataclasses.replace(wide, config=given))
    assert every == MOST_STEPS_BETWEEN_SNAPSHOTS
    with pytest.raises(ValueError, match=r"worker . would retain .* and this machine has 1 MB of"):
        choose(base, 1e6)
    with pytest.raises(ValueError, match=f"give --retain-mb {math.ceil(needed_mb)}, or a smaller"):
        check_retention(with_settings(retain_mb=1))


def test_one_worker_has_nothing_to_retain():
    run = resolve(RunConfig(**SMALL, workers=1, retain_mb=9), environment=MACHINE)
    assert run.config.snapshot_every == MOST_STEPS_BETWEEN_SNAPSHOTS
    assert worker_plan(run, 0).outgoing == {}


def test_room_that_is_too_little_is_refused_with_what_is_needed():
    settings = SMALL | {"window": 9, "lag": 4}
    with pytest.raises(ConfigError) as caught:
        resolve(RunConfig(**settings, workers=3, retain_mb=1), environment=MACHINE)
    message = str(caught.value)
    megabytes = int(message.partition("--retain-mb ")[2].partition(",")[0])
    assert "retain-mb 1 is too little: worker " in message
    assert "(window 9, lag 4) and " in message
    assert " MB of its snapshot and a part of a checkpoint; give --retain-mb" in message
    assert message.endswith("or a smaller --batch-size")
    resolve(RunConfig(**settings, workers=3, retain_mb=megabytes), environment=MACHINE)
    with pytest.raises(ConfigError):
        resolve(RunConfig(**settings, workers=3, retain_mb=megabytes - 1), environment=MACHINE)


def test_free_ties_are_held_up_by_their_bound_alone():
    """The window of each holds one more than the bound, as a lag's does; none is late."""
    run = light(workers=3, free_ties=True, max_staleness=4, tie="gradient")
    assert (run.config.window, run.config.max_staleness) == (5, 4)
    plan = worker_plan(run, 1)
    assert (plan.lag, plan.free) == (
        0,
        Free(max_staleness=4, keeps_newest=False),
    )
    for stream in (Stream.TIE_UP, Stream.TIE_DOWN):
        assert plan.outgoing[stream].max_messages == 5
    other = light(workers=3, free_ties=True)
    assert other.config.max_staleness == DEFAULT_MAX_STALENESS
    free = Free(max_staleness=DEFAULT_MAX_STALENESS, keeps_newest=True)
    assert worker_plan(other, 0).free == free
