"""A state becomes durable in an order that a death can't spoil, and is loaded again."""

import math
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from torch import Tensor

from runtime.block import TensorSpec
from runtime.core.plan import Stream, Window, WorkerPlan
from runtime.core.tie_stats import TieStats
from runtime.state import saving
from runtime.state.image import free_image, read_image
from runtime.state.retention import Retention
from runtime.state.saving import (
    OutOfRoom,
    Saver,
    put_back,
    split_part,
    split_tie_stats,
    with_tie_stats,
)
from runtime.state.status_page import Field, OwnedMemory

LAG = 3
SPECS = {Stream.TIE_DOWN: (TensorSpec(shape=(4,), dtype="float32"),)}
WINDOW = Window(max_messages=4, max_bytes=64, message_bytes=16, max_retained=8)
STATE = {"home.weight": torch.arange(6.0).view(2, 3), "step": torch.tensor(5)}


def fresh() -> dict[str, Tensor]:
    """A state whose tensors may move."""
    return {name: tensor.clone() for name, tensor in STATE.items()}


class Saving:
    """A saver on real memory, which notes what is there whenever it says something."""

    def __init__(
        self, memory: OwnedMemory, *, sends_down: bool = True, max_bytes: float = math.inf
    ) -> None:
        outgoing = {Stream.TIE_DOWN: WINDOW} if sends_down else {}
        plan = WorkerPlan(num_steps=50, lag=LAG, outgoing=outgoing)
        self.memory = memory
        self.retention = Retention(memory.paths.messages, plan, SPECS)
        self.heard: list[tuple[str, int | None, int | None]] = []
        self.told: list[str] = []
        self.on_announce: Callable[[], None] = lambda: None
        self.saver = Saver(
            memory.paths,
            memory.page,
            self.retention,
            plan,
            announce=self._announced,
            copying=lambda step: self._hear(f"copying at {step}"),
            between=lambda step: self._hear(f"between at {step}"),
            tell=self.told.append,
            max_bytes=max_bytes,
        )

    def _announced(self) -> None:
        self._hear("announced")
        self.on_announce()

    def _hear(self, what: str) -> None:
        part = read_image(self.memory.paths.checkpoint)
        snapshot = read_image(self.memory.paths.snapshot)
        self.heard.append(
            (what, None if part is None else part[0], None if snapshot is None else snapshot[0])
        )

    def save(self, step: int, *, checkpoint: bool) -> None:
        self.saver.take(step, fresh(), checkpoint=checkpoint)
        if checkpoint:
            self.saver.save_part(step)

    def put(self, *steps: int) -> None:
        for step in steps:
            self.retention.put(Stream.TIE_DOWN, step, (torch.full((4,), float(step)),))

    def finish_writing(self) -> None:
        """What the keeper does when the part is on the disk."""
        page = self.memory.page
        free_image(self.memory.paths.checkpoint)
        page[Field.CHECKPOINT_DONE] = page[Field.CHECKPOINT]

    def part(self) -> tuple[int, dict[str, Tensor]]:
        found = read_image(self.memory.paths.checkpoint)
        assert found is not None
        return found[0], safetensors.torch.load(bytes(found[1]))


@pytest.fixture
def make(memory) -> Callable[..., Saving]:
    return lambda **options: Saving(memory, **options)


def test_snapshot_is_the_state_alone(make):
    case = make()
    case.put(0, 1, 2, 3, 4)
    case.save(5, checkpoint=False)
    assert case.heard == [("copying at 5", None, None)]
    assert case.memory.page[Field.CHECKPOINT] == 0
    step, state = make().saver.take_up()
    assert step == 5
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_snapshot_is_taken_first_and_its_part_is_whole_when_announced(make):
    case = make()
    case.put(0, 1, 2, 3, 4, 5, 6)
    case.save(4, checkpoint=False)
    case.save(7, checkpoint=True)
    assert case.heard[1:] == [
        ("copying at 7", None, None),
        ("between at 7", None, 7),
        ("announced", 7, 7),
    ]
    assert case.memory.page[Field.CHECKPOINT] == 8
    assert make().saver.take_up()[0] == 7


def test_part_that_a_death_has_left_out_is_made_by_the_next_generation(make):
    """It begins with that very snapshot, and would not come to its step again."""
    case = make()
    case.put(0, 1, 2)
    case.saver.take(3, fresh(), checkpoint=True)
    again = make()
    assert again.saver.take_up()[0] == 3
    assert again.heard == [("between at 3", None, 3), ("announced", 3, 3)]
    state, ties = split_part(again.part()[1])
    assert (state.keys(), sorted(ties)) == (STATE.keys(), [0, 1, 2])


def test_part_that_is_there_is_announced_again_and_not_written(make):
    """A generation that died behind the part may not have announced it."""
    case = make()
    case.put(0, 1, 2)
    case.save(3, checkpoint=True)
    case.finish_writing()
    again = make()
    again.saver.take_up()
    assert again.heard == [("between at 3", None, 3), ("announced", None, 3)]


def test_snapshot_behind_a_part_makes_the_next_generation_announce_nothing(make):
    case = make()
    case.put(0, 1, 2)
    case.save(3, checkpoint=True)
    case.save(4, checkpoint=False)
    again = make()
    assert again.saver.take_up()[0] == 4
    assert again.heard == []


def test_next_part_waits_until_the_keeper_has_the_one_before(make, monkeypatch):
    case = make()
    case.put(*range(7))
    case.save(3, checkpoint=True)
    waits: list[float] = []

    def pass_time(seconds: float) -> None:
        assert case.part()[0] == 3, "its memory was used again too early"
        waits.append(seconds)
        if len(waits) == 3:
            case.finish_writing()

    monkeypatch.setattr(saving.time, "sleep", pass_time)
    case.save(6, checkpoint=True)
    assert waits == [saving.POLL_S] * 3
    assert case.part()[0] == 6


def test_snapshot_waits_for_no_disk(make, monkeypatch):
    case = make()
    case.put(0, 1, 2)
    case.save(3, checkpoint=True)
    monkeypatch.setattr(saving.time, "sleep", lambda _: pytest.fail("it waited"))
    case.save(4, checkpoint=False)
    assert make().saver.take_up()[0] == 4


def test_storage_that_does_not_end_costs_a_checkpoint(make, monkeypatch):
    """It cost the worker, and after some restarts the job."""
    case = make()
    case.put(0, 1, 2)
    case.save(3, checkpoint=True)
    now_s = iter(range(0, 10**6, 100))
    monkeypatch.setattr(saving.time, "monotonic", lambda: float(next(now_s)))
    monkeypatch.setattr(saving.time, "sleep", lambda _: None)
    case.save(6, checkpoint=True)
    assert case.part()[0] == 3
    (told,) = case.told
    assert "checkpoint at step 6 was not written: its storage has not taken the one before" in told
    assert make().saver.take_up()[0] == 6
    assert case.part()[0] == 3, "the next generation does not wait for it either"


def test_state_too_large_is_refused_before_anything_is_written(make):
    needed = make().retention.size_bytes + 2 * sum(tensor.nbytes for tensor in STATE.values())
    make(max_bytes=needed).save(4, checkpoint=False)
    small = make(max_bytes=needed - 1)
    small.put(*range(8))
    with pytest.raises(OutOfRoom, match=r"retain-mb 0 is too little: .*; give --retain-mb 1$"):
        small.save(8, checkpoint=True)
    assert small.memory.page[Field.CHECKPOINT] == 0
    assert make().saver.take_up()[0] == 4


# Downward ties ----------------------------------------------------------------------------------


def test_part_holds_the_ties_the_worker_below_uses_after_it(make):
    case = make()
    case.put(4, 5, 6, 7)
    case.retention.put(Stream.TIE_DOWN, 8, None)
    case.save(9, checkpoint=True)
    state, ties = split_part(case.part()[1])
    assert state.keys() == STATE.keys()
    assert {step: [t.tolist() for t in tensors] for step, tensors in ties.items()} == {
        6: [[6.0] * 4],
        7: [[7.0] * 4],
        8: [[]],
    }


def test_ties_are_put_back_as_if_they_had_just_been_sent(make, tmp_path):
    case = make()
    case.put(6, 7)
    case.retention.put(Stream.TIE_DOWN, 8, None)
    case.save(9, checkpoint=True)
    _, ties = split_part(case.part()[1])

    other = OwnedMemory("resumed")
    resumed = Saving(other)
    put_back(ties, resumed.retention)
    assert resumed.retention.retained(9)[Stream.TIE_DOWN] == {6: False, 7: False, 8: True}
    assert resumed.retention.get(Stream.TIE_DOWN, 7)[0].tolist() == [7.0] * 4
    assert resumed.retention.get(Stream.TIE_DOWN, 8) == ()
    resumed.put(9)
    resumed.save(10, checkpoint=True)  # its own next part needs two of them
    assert sorted(split_part(resumed.part()[1])[1]) == [7, 8, 9]
    other.close()


@pytest.mark.parametrize(("step", "steps"), [(0, []), (1, [0]), (2, [0, 1]), (4, [1, 2, 3])])
def test_early_parts_hold_what_there_is(make, step, steps):
    case = make()
    case.put(*range(step))
    case.save(step, checkpoint=True)
    assert sorted(split_part(case.part()[1])[1]) == steps


def test_lowest_worker_has_no_ties_to_save(make):
    case = make(sends_down=False)
    case.save(9, checkpoint=True)
    assert split_part(case.part()[1])[1] == {}


def test_tie_stats_go_with_the_state_and_come_back():
    tie_stats = TieStats(stale=2)
    tie_stats.note(Stream.TIE_DOWN, -4)
    tie_stats.note(Stream.TIE_DOWN, 7)
    state, found = split_tie_stats(with_tie_stats(STATE, tie_stats))
    assert state.keys() == STATE.keys()
    assert (found.stale, found.staleness) == (2, tie_stats.staleness)
    assert split_tie_stats(STATE) == (STATE, TieStats())
