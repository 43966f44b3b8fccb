"""The compute thread does what is issued in order, and asks only if nothing is."""

from types import SimpleNamespace

import pytest
import torch

from runtime.block import LEFT
from runtime.core.messages import Compute, Computed, Phase, Snapshot
from runtime.core.plan import Stream
from runtime.core.tie_stats import TieStats
from runtime.state.saving import TIE_STATS
from runtime.worker.compute_thread import ComputeThread, Saved
from runtime.worker.inbox import Ready

FORWARD, UPDATE, APPLY = Phase
ACTIVATION, FROM_BELOW, FROM_ABOVE = ((torch.full((1,), float(i)),) for i in range(3))


class Block:
    """Notes what is asked of it."""

    loss, probe_top1, num_bad_steps = 0.5, 0.25, 1
    leaving = LEFT

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.expected: list[tuple] = []

    def expect(self, payload):
        self.expected.append(payload)

    def forward(self, step, incoming):
        self.calls.append(("forward", step, incoming))
        return ("activation", step)

    def update(self, step):
        self.calls.append(("update", step))
        return SimpleNamespace(up=("up", step), down=("down", step), absent=step == 13)

    def apply(self, step, from_below, from_above):
        self.calls.append(("apply", step, from_below, from_above))

    def state(self):
        self.calls.append(("state",))
        return {"weight": torch.zeros(1)}


class Case:
    """A compute thread whose every call of the others is noted."""

    def __init__(self) -> None:
        self.block, self.heard, self.saved = Block(), [], []
        self.num_wakes, self.can_retain = 0, True
        self.stopwatch = SimpleNamespace(computed_s=0.0)
        self.computing = ComputeThread(
            self.block,
            saver=SimpleNamespace(
                take=lambda *args, **kwargs: self.saved.append((args, kwargs)),
                save_part=lambda step: self.saved.append(("part", step)),
            ),
            injector=SimpleNamespace(begin=lambda *_: None, end=lambda *_: None),
            stopwatch=self.stopwatch,
            settle=self._settle,
            retain_all=self._retain_all,
            wake=self._wake,
        )

    def _retain_all(self) -> bool:
        self.heard.append("retain all")
        return self.can_retain

    def _settle(self) -> None:
        self.heard.append("settle")
        while (done := self.computing.take_done()) is not None:
            self.heard.append(done if isinstance(done, Saved) else done.event)

    def _wake(self) -> None:
        self.num_wakes += 1

    def issue(self, phase: Phase, step: int, **payloads) -> None:
        self.computing.issue(Ready(Compute(phase=phase, step=step), **payloads))

    def run(self) -> None:
        """Do all that was issued, and end."""
        self.computing._works.put(None)  # as `end`, but behind all that was issued
        self.computing.run()


@pytest.fixture
def case() -> Case:
    return Case()


def test_phases_get_their_inputs_and_tell_what_they_made(case):
    case.issue(FORWARD, 3, activation=ACTIVATION)
    case.issue(UPDATE, 3)
    case.issue(APPLY, 3, from_below=FROM_BELOW, from_above=FROM_ABOVE)
    case.run()
    assert case.block.calls == [
        ("forward", 3, ACTIVATION),
        ("update", 3),
        ("apply", 3, FROM_BELOW, FROM_ABOVE),
    ]
    done = [case.computing.take_done() for _ in range(4)]
    assert done[3] is None
    assert [d.event for d in done[:3]] == [Computed(phase=phase, step=3) for phase in Phase]
    assert [d.made for d in done[:3]] == [
        {Stream.ACTIVATION: ("activation", 3)},
        {Stream.TIE_UP: ("up", 3), Stream.TIE_DOWN: ("down", 3)},
        {},
    ]
    assert done[2].figures == (0.5, 0.25, 1)
    assert done[0].ended_s <= done[1].ended_s <= done[2].ended_s
    assert case.stopwatch.computed_s > 0


def test_what_a_phase_will_use_is_expected_when_it_is_issued(case):
    """A GPU fetches it while the step before is computed."""
    case.issue(FORWARD, 3, activation=ACTIVATION)
    case.issue(UPDATE, 3)
    case.issue(APPLY, 3, from_above=FROM_ABOVE)
    case.computing.issue(Snapshot(step=4, checkpoint=False))
    assert case.block.expected == [ACTIVATION, FROM_ABOVE]
    assert case.block.calls == []


def test_what_a_phase_made_is_told_with_how_it_leaves(case):
    case.block.leaving = "on its way"
    for phase in Phase:
        case.issue(phase, 3)
    case.run()
    leaving = [case.computing.take_done().leaving for _ in Phase]
    assert leaving == ["on its way", "on its way", LEFT]


def test_update_without_finite_ties_says_so(case):
    case.issue(UPDATE, 13)
    case.run()
    assert case.computing.take_done().event == Computed(phase=UPDATE, step=13, absent=True)


def test_core_is_asked_only_if_nothing_is_issued(case):
    seen, update = [], case.block.update
    case.block.update = lambda step: (seen.append(list(case.heard)), update(step))[1]
    case.issue(FORWARD, 0)
    case.issue(UPDATE, 0)
    case._wake = lambda: None

    def then() -> None:  # by the loop, when it has heard
        case.computing.end()

    case.computing._settle = lambda: (case._settle(), then())
    case.computing.run()
    assert seen == [[]], "another thread hears of it; this one goes on"
    done = [Computed(phase=phase, step=0) for phase in (FORWARD, UPDATE)]
    assert case.heard == ["settle", *done]


def test_loop_is_woken_by_all_that_is_done(case):
    case.issue(FORWARD, 0)
    case.issue(UPDATE, 0)
    case.run()
    assert case.num_wakes == 2


def test_state_is_saved_in_its_turn_and_told_in_order(case):
    case.issue(APPLY, 4)
    case.computing.issue(Snapshot(step=5))
    case.issue(FORWARD, 5)
    case.run()
    assert [call[0] for call in case.block.calls] == ["apply", "state", "forward"]
    assert case.saved == [((5, {"weight": torch.zeros(1)}), {"checkpoint": False})]
    applied, saved, forwarded = (case.computing.take_done() for _ in range(3))
    assert applied.event == Computed(phase=APPLY, step=4)
    assert isinstance(saved, Saved)
    assert (saved.step, saved.save_part) == (5, None)
    assert forwarded.event == Computed(phase=FORWARD, step=5)
    assert case.computing.take_done() is None


def test_state_is_saved_when_all_before_it_is_retained(case):
    """A new generation that begins with it makes none of that again."""
    case.computing._saver.take = lambda *_, **__: case.heard.append("taken")
    case.computing.issue(Snapshot(step=5))
    case.run()
    assert case.heard == ["retain all", "taken"]


def test_state_is_not_saved_if_something_before_it_can_not_be_retained(case):
    case.can_retain = False
    case.computing.issue(Snapshot(step=5))
    case.run()
    assert (case.saved, case.computing.take_done()) == ([], None)


def test_part_of_a_checkpoint_is_made_by_whoever_hears_of_the_snapshot(case):
    case.computing.issue(Snapshot(step=5, checkpoint=True))
    case.run()
    assert case.saved == [((5, {"weight": torch.zeros(1)}), {"checkpoint": True})]
    case.computing.take_done().save_part()
    assert case.saved[1:] == [("part", 5)]


def test_snapshot_is_settled_at_once_if_nothing_else_is_issued(case):
    case.computing.issue(Snapshot(step=5))
    case.computing._wake = case.computing.end  # behind it all
    case.computing.run()
    retained, settled, saved = case.heard
    assert (retained, settled, saved.step) == ("retain all", "settle", 5)


def test_loop_is_woken_by_a_snapshot_behind_which_more_is_issued(case):
    case.computing.issue(Snapshot(step=5))
    case.run()
    assert (case.heard, case.num_wakes) == (["retain all"], 1)


def test_state_with_free_ties_holds_their_stats(case):
    case.computing.issue(Snapshot(step=5, tie_stats=TieStats(stale=3)))
    case.run()
    (((_, state), _),) = case.saved
    assert TieStats.from_rows(state[TIE_STATS].tolist()).stale == 3


def test_issued_computations_are_left_if_the_end_is_wanted(case):
    case.issue(FORWARD, 0)
    case.computing.end()
    case.computing.run()
    assert case.block.calls == []


def test_error_of_the_block_is_raised_and_the_loop_woken(case):
    case.block.forward = lambda *_: 1 / 0
    case.issue(FORWARD, 0)
    with pytest.raises(ZeroDivisionError):
        case.computing.run()
    assert isinstance(case.computing.failure, ZeroDivisionError)
    assert case.num_wakes == 1
