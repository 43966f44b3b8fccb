"""What a worker is said to take, before it starts."""

import dataclasses

import pytest

from launch.planning import memory
from launch.planning.memory import (
    MOST_FOR_RESTARTS,
    MOST_RETAINED,
    PASSING,
    BlockMemory,
    block_memory,
    choose_snapshot_every,
    out_of_memory,
)
from launch.planning.streams import (
    MARGIN,
    MOST_STEPS_BETWEEN_SNAPSHOTS,
    snapshot_bytes,
    worker_plan,
)
from runtime.core.plan import Stream

from ..runs import light, resolved

SAMPLES = 2 * 64


def test_weights_are_parameters_gradients_and_optimizer_state():
    for optimizer, copies in (("sgd", 3), ("adamw", 4)):
        run = light(workers=1, optimizer=optimizer)
        parameters = (256 * 64 + 64) + 3 * (64 * 64 + 64) + (64 * 256 + 256) + (256 * 64 + 64)
        taken = block_memory(run, run.partition.blocks[0])
        probe = 3 * 10 * (64 + 1)
        assert taken.weights == 4 * (copies * parameters + probe)


@pytest.mark.parametrize(("tie", "guest_copies"), [("elastic", 4), ("follow", 1)])
def test_guest_counts_with_all_its_units_and_what_trains_them(tie, guest_copies):
    """A guest that follows has weights, but neither gradients nor adamw's two moments."""
    run = light(workers=3, cuts=(0, 1, 3), overlap=(2, 1), tie=tie)
    first, unit, head = 256 * 64 + 64, 64 * 64 + 64, (64 * 256 + 256) + (256 * 64 + 64)
    homes, guests, probe = (first, 2 * unit, unit), (2 * unit, unit, 0), 3 * 10 * (64 + 1)
    for block, home, guest in zip(run.partition.blocks, homes, guests, strict=True):
        taken = block_memory(run, block)
        assert taken.weights == 4 * (4 * (home + head) + guest_copies * guest + probe)
        saved = 3 * (home + head) + max(1, guest_copies - 1) * guest  # without gradients
        assert taken.snapshot == int(MARGIN * 4 * saved) + 4 * probe


def test_activations_are_those_of_home_and_guest():
    run = light(workers=3, cuts=(0, 1, 3), overlap=(2, 1))
    # Three units each, and one alone; the lowest block has its images, too.
    for block, floats in zip(run.partition.blocks, (256 + 3 * 64, 3 * 64, 64), strict=True):
        of_head = 256 + 64
        taken = block_memory(run, block)
        assert taken.activations == SAMPLES * 4 * (floats + of_head + PASSING * 64)


def test_probe_of_many_classes_is_counted():
    """A thousand million classes were in no estimate, and a worker died of them."""
    run = light(workers=1)
    (block,) = run.partition.blocks
    many = block_memory(dataclasses.replace(run, num_classes=10**6), block)
    assert many.weights - block_memory(run, block).weights == 4 * 3 * 65 * (10**6 - 10)


def test_activations_are_what_lives_until_the_backward():
    run = light(workers=1)
    taken = block_memory(run, run.partition.blocks[0])
    # ReLU keeps its output, Linear its input; the head keeps its hidden layer and its output.
    floats = 256 + 4 * 64 + (256 + 64) + PASSING * 64
    assert taken.activations == SAMPLES * 4 * floats


def test_recomputing_keeps_outputs_and_what_one_unit_leaves():
    """The head is not run again; weights and messages are the same."""
    plain = resolved(workers=1, decoder_depth=(0,))
    (block,) = plain.partition.blocks
    config = dataclasses.replace(plain.config, recompute=True)
    before, after = (
        block_memory(run, block) for run in (plain, dataclasses.replace(plain, config=config))
    )
    kept = [unit.kept_bytes for unit in plain.unit_costs]
    outputs = 4 * (2 * 16 * 16**2 + 32 * 8**2 + 64 * 4**2 + 128 * 2**2)
    assert sum(kept) > outputs + max(kept)
    spared = SAMPLES * (sum(kept) - outputs - max(kept))
    assert after == dataclasses.replace(before, activations=before.activations - spared)


def test_messages_are_full_windows_and_one_of_what_goes_out():
    run = light(workers=3, window=3, lag=4, link="zmq")
    plan = worker_plan(run, 1)
    incoming = sum(window.max_bytes for window in plan.incoming.values())
    outgoing = sum(window.message_bytes for window in plan.outgoing.values())
    assert plan.incoming[Stream.TIE_DOWN].max_messages == 5
    assert block_memory(run, run.partition.blocks[1]).messages == incoming + outgoing


def test_message_in_shared_memory_counts_once_for_who_retains_it():
    run = light(workers=3, window=3, lag=4)
    assert run.config.link == "shm"
    plan, taken = worker_plan(run, 1), block_memory(run, run.partition.blocks[1])
    assert taken.messages == sum(window.message_bytes for window in plan.outgoing.values())
    assert taken.retained == sum(w.max_retained * w.message_bytes for w in plan.outgoing.values())


def test_restarts_need_a_snapshot_and_for_a_while_a_part_of_a_checkpoint():
    run = light(workers=2)
    taken = block_memory(run, run.partition.blocks[0])
    assert taken.snapshot == taken.checkpoint == snapshot_bytes(run, run.partition.blocks[0])
    rest = taken.retained + taken.snapshot + taken.checkpoint
    assert taken.total == taken.own + rest


def test_rounded_input_is_there_twice_as_it_came_and_as_it_is_computed_on():
    plain, rounded = (
        light(workers=3, wire_precision=(wire,), link="zmq") for wire in ("exact", "bf16")
    )
    for k, (block, same) in enumerate(
        zip(plain.partition.blocks, rounded.partition.blocks, strict=True)
    ):
        assert block == same
        before, now = block_memory(plain, block), block_memory(rounded, block)
        unrounded = SAMPLES * 64 * 4 if k else 0
        assert now.activations - before.activations == unrounded
        coming, going = (2 if k else 0), (0 if k == 2 else 1)  # messages
        assert before.messages - now.messages == (coming + going) * SAMPLES * 64 * 2
        assert now.retained <= before.retained


@pytest.mark.parametrize("retain_mb", [1024, 20])
def test_what_is_there_for_restarts_is_bounded(retain_mb):
    run = resolved(retain_mb=retain_mb)
    for k, block in enumerate(run.partition.blocks):
        kept = sum(w.max_retained * w.message_bytes for w in worker_plan(run, k).outgoing.values())
        taken = block_memory(run, block)
        assert kept <= taken.retained
        assert taken.retained + taken.snapshot + taken.checkpoint <= retain_mb * 1e6


def wide(**settings: object):
    """A run whose state is large beside its activations or, with more images, small."""
    return light(workers=3, data="synthetic:1x8x8x4096", decoder_depth=(0,), **settings)


OFTEN = {"batch_size": 8}  # the state is most of it, and ties are as large as weights


@pytest.mark.parametrize(
    ("settings", "every"),
    [
        ({"batch_size": 512}, MOST_STEPS_BETWEEN_SNAPSHOTS),  # the activations have most of it
        ({"batch_size": 8, "tie": "none"}, MOST_STEPS_BETWEEN_SNAPSHOTS),  # messages are small
        (OFTEN, 1),
    ],
)
def test_snapshots_are_as_rare_as_memory_allows(settings, every, monkeypatch):
    monkeypatch.setattr(memory, "LITTLE_BYTES", 0)
    assert choose_snapshot_every(wide(**settings)) == every


def test_little_memory_is_not_worth_a_snapshot_a_step():
    assert wide(**OFTEN).config.snapshot_every == MOST_STEPS_BETWEEN_SNAPSHOTS


@pytest.mark.parametrize("size", [8, 64, 512, 4096])
def test_what_is_there_for_restarts_stays_below_half_of_a_blocks_own(size, monkeypatch):
    """Unless its messages are small, or its state is saved after every step."""
    monkeypatch.setattr(memory, "LITTLE_BYTES", 0)
    run = wide(batch_size=size)
    every = choose_snapshot_every(run)
    for block in run.partition.blocks:
        taken = block_memory(run, block, every=every)
        is_small = taken.retained <= MOST_RETAINED * taken.own
        is_half = taken.retained + taken.snapshot <= MOST_FOR_RESTARTS * taken.own
        assert is_half or is_small or every == 1


def test_gpu_has_what_is_computed_and_the_host_what_is_sent_and_retained():
    run = light(workers=3)
    for k, block in enumerate(run.partition.blocks):
        taken = block_memory(run, block)
        inputs = (SAMPLES * 64 * 4 + 64 * 8) if k else 0  # activations and labels
        assert taken.staged == 2 * inputs
        assert taken.on_gpu == taken.weights + taken.activations + taken.staged
        for_restarts = taken.retained + taken.snapshot + taken.checkpoint
        assert taken.on_host == taken.messages + for_restarts
        assert taken.total == taken.on_gpu - taken.staged + taken.on_host


def test_gpu_that_is_too_small_is_told_with_what_is_needed_and_free():
    needed = BlockMemory(
        weights=400_000_000,
        activations=800_000_000,
        messages=1,
        retained=1,
        snapshot=1,
        checkpoint=1,
        staged=34_000_000,
    )
    told = out_of_memory(needed, block_index=2, room_bytes=10**9, total_bytes=16 * 10**9)
    assert told == (
        "worker 2 is out of GPU memory: its block needs about 1,234 MB there (400 for weights,"
        " gradients and optimizer, 800 for activations, 34 for its inputs), and of 16,000 MB 1,000"
        " are free for it; give a smaller --batch-size, --recompute, more workers, or each a GPU"
    )


def test_larger_batch_takes_more_and_weights_stay():
    small, large = (light(workers=2, batch_size=n) for n in (32, 64))
    for a, b in zip(small.partition.blocks, large.partition.blocks, strict=True):
        before, after = block_memory(small, a), block_memory(large, b)
        assert after.activations == 2 * before.activations
        assert after.weights == before.weights
        assert after.total > before.total
