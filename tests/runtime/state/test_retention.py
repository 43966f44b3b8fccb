"""What a worker has sent is retained for its next generation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xxhash

from runtime.block import TensorSpec
from runtime.core.plan import Free, Stream, Window, WorkerPlan
from runtime.links.guards import digest_of
from runtime.state.retention import CHUNK_BYTES, Retention

ROOMS = {Stream.ACTIVATION: 4, Stream.TIE_UP: 5}
SPECS = {
    Stream.ACTIVATION: (
        TensorSpec(shape=(2, 3), dtype="bfloat16"),  # 12 bytes: what follows needs padding
        TensorSpec(shape=(3,), dtype="int64"),
        TensorSpec(shape=(0, 4), dtype="float32"),
        TensorSpec(shape=(), dtype="float64"),
    ),
    Stream.TIE_UP: (TensorSpec(shape=(5,), dtype="float32"),),
}


def make_plan(rooms: dict[Stream, int | None] = ROOMS) -> WorkerPlan:
    return WorkerPlan(
        num_steps=100,
        outgoing={
            stream: Window(max_messages=2, max_bytes=200, message_bytes=44, max_retained=room)
            for stream, room in rooms.items()
        },
    )


def payload(stream: Stream, step: int) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.full(spec.shape, 10 * step + i, dtype=spec.torch_dtype)
        for i, spec in enumerate(SPECS[stream])
    )


def assert_holds(retention: Retention, stream: Stream, step: int) -> None:
    got = retention.get(stream, step)
    for a, b in zip(got, payload(stream, step), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)


@pytest.fixture
def retention(memory) -> Retention:
    return Retention(memory.paths.messages, make_plan(), SPECS)


def test_message_that_is_put_is_got(retention):
    for step in range(3):
        for stream in SPECS:
            retention.put(stream, step, payload(stream, step))
    for step in range(3):
        for stream in SPECS:
            assert_holds(retention, stream, step)


def test_tensors_lie_as_if_they_had_just_been_made(retention):
    for stream in SPECS:
        retention.put(stream, 7, payload(stream, 7))
        for tensor in retention.get(stream, 7):
            assert tensor.is_contiguous()
            assert tensor.data_ptr() % 64 == 0


def test_copy_is_retained_and_not_the_blocks_own_tensor(retention):
    tensors = payload(Stream.TIE_UP, 1)
    retention.put(Stream.TIE_UP, 1, tensors)
    tensors[0].zero_()
    assert_holds(retention, Stream.TIE_UP, 1)


def test_absent_message_is_retained_as_such(retention):
    retention.put(Stream.TIE_UP, 0, payload(Stream.TIE_UP, 0))
    retention.put(Stream.TIE_UP, 1, None)
    assert retention.get(Stream.TIE_UP, 1) == ()
    assert retention.retained(2)[Stream.TIE_UP] == {0: False, 1: True}


def test_slot_is_used_again_a_ring_later(retention):
    for step in range(7):
        retention.put(Stream.ACTIVATION, step, payload(Stream.ACTIVATION, step))
    assert retention.retained(7)[Stream.ACTIVATION] == dict.fromkeys(range(3, 7), False)
    with pytest.raises(AssertionError):
        retention.get(Stream.ACTIVATION, 2)
    retention.put(Stream.ACTIVATION, 7, None)
    retention.put(Stream.ACTIVATION, 11, payload(Stream.ACTIVATION, 11))  # over an absent one
    assert_holds(retention, Stream.ACTIVATION, 11)


def test_message_never_put_is_not_there(retention):
    with pytest.raises(AssertionError):
        retention.get(Stream.ACTIVATION, 0)
    assert retention.retained(5) == {Stream.ACTIVATION: {}, Stream.TIE_UP: {}}
    assert retention.retained(0) == {Stream.ACTIVATION: {}, Stream.TIE_UP: {}}


def test_retained_ends_at_the_first_gap_below(retention):
    for step in (0, 1, 3, 4, 5):
        retention.put(Stream.TIE_UP, step, payload(Stream.TIE_UP, step))
    assert set(retention.retained(6)[Stream.TIE_UP]) == {3, 4, 5}
    assert set(retention.retained(2)[Stream.TIE_UP]) == {1}  # 5 lies where 0 did
    assert retention.retained(3)[Stream.TIE_UP] == {}


def test_next_generation_finds_what_the_one_before_has_put(memory, retention):
    for step in range(5):
        retention.put(Stream.TIE_UP, step, None if step == 3 else payload(Stream.TIE_UP, step))
    again = Retention(memory.paths.messages, make_plan(), SPECS)
    assert again.retained(5)[Stream.TIE_UP] == {0: False, 1: False, 2: False, 3: True, 4: False}
    assert_holds(again, Stream.TIE_UP, 4)
    again.put(Stream.TIE_UP, 5, payload(Stream.TIE_UP, 5))
    assert_holds(retention, Stream.TIE_UP, 5)


def test_death_while_a_message_is_put_leaves_an_empty_slot(memory, retention):
    retention.put(Stream.ACTIVATION, 1, payload(Stream.ACTIVATION, 1))
    first, *_ = payload(Stream.ACTIVATION, 5)
    with pytest.raises(ValueError, match="shorter"):
        retention.put(Stream.ACTIVATION, 5, (first,))
    again = Retention(memory.paths.messages, make_plan(), SPECS)
    assert again.retained(6)[Stream.ACTIVATION] == again.retained(2)[Stream.ACTIVATION] == {}
    with pytest.raises(AssertionError):
        again.get(Stream.ACTIVATION, 5)


def test_worker_that_sends_nothing_retains_nothing(memory):
    retention = Retention(memory.paths.messages, make_plan({}), {})
    assert retention.retained(9) == {}


def test_bound_of_the_plan_is_the_size_of_the_rings(memory, retention):
    path = Path(memory.paths.messages)
    before = path.stat().st_blocks
    for step in range(50):
        for stream in SPECS:
            retention.put(stream, step, payload(stream, step))
    assert 512 * (path.stat().st_blocks - before) <= 4096


def test_checksum_is_taken_while_a_message_is_copied(memory):
    """The same as over the whole: of several tensors, and of more than one chunk."""
    size = 3 * CHUNK_BYTES // 4 + 5
    specs = {Stream.TIE_UP: (*SPECS[Stream.ACTIVATION], TensorSpec(shape=(size,), dtype="float32"))}
    window = Window(max_messages=2, max_bytes=200, message_bytes=44, max_retained=4)
    plan = WorkerPlan(num_steps=9, outgoing={Stream.TIE_UP: window})
    retention = Retention(memory.paths.messages, plan, specs)
    retention.hash[Stream.TIE_UP] = xxhash.xxh3_64
    made = (*payload(Stream.ACTIVATION, 3), torch.arange(size, dtype=torch.float32))
    retention.put(Stream.TIE_UP, 3, made)
    assert retention.checksum(Stream.TIE_UP, 3) == digest_of(xxhash.xxh3_64, made)
    assert digest_of(xxhash.xxh3_64, retention.get(Stream.TIE_UP, 3)) == digest_of(
        xxhash.xxh3_64, made
    )


def test_checksum_is_none_if_there_are_none(retention):
    retention.put(Stream.TIE_UP, 0, payload(Stream.TIE_UP, 0))
    assert retention.checksum(Stream.TIE_UP, 0) == 0


# Without a fixed lag ---------------------------------------------------------------------------


@pytest.fixture
def free(memory) -> Retention:
    plan = replace(make_plan(), free=Free(max_staleness=8, keeps_newest=True))
    return Retention(memory.paths.messages, plan, SPECS)


def test_message_made_again_otherwise_is_left_as_others_saw_it(free):
    free.put(Stream.ACTIVATION, 3, payload(Stream.ACTIVATION, 3))
    free.put(Stream.ACTIVATION, 3, payload(Stream.ACTIVATION, 9))
    assert_holds(free, Stream.ACTIVATION, 3)
    free.put(Stream.TIE_UP, 3, None)
    free.put(Stream.TIE_UP, 3, payload(Stream.TIE_UP, 3))
    assert_holds(free, Stream.TIE_UP, 3)


def test_absent_message_that_is_made_after_all_has_a_checksum(memory):
    plan = replace(make_plan(), free=Free(max_staleness=8, keeps_newest=True))
    free = Retention(memory.paths.messages, plan, SPECS)
    free.hash[Stream.TIE_UP] = xxhash.xxh3_64
    made = payload(Stream.TIE_UP, 3)
    free.put(Stream.TIE_UP, 3, None)
    free.put(Stream.TIE_UP, 3, made)
    free.put(Stream.TIE_UP, 3, payload(Stream.TIE_UP, 9))
    assert free.checksum(Stream.TIE_UP, 3) == digest_of(xxhash.xxh3_64, made)


def test_newest_free_tie_is_retained_whatever_is_missing_below(free):
    assert free.retained(9)[Stream.TIE_UP] == {}
    for step in (2, 4, 11):
        free.put(Stream.TIE_UP, step, payload(Stream.TIE_UP, step))
    assert free.retained(9)[Stream.TIE_UP] == {4: False}
    free.put(Stream.TIE_UP, 9, None)  # takes the slot of 4
    assert free.retained(10)[Stream.TIE_UP] == {2: False}
