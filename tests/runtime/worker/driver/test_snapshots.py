"""A driver's snapshots: what is in them, what they are behind, and what the keeper is told."""

import threading

import pytest

from runtime.core.messages import Computed, Phase
from runtime.state.status_page import Field

from .pair import TIMEOUT_S, HeldBlock

FORWARD, UPDATE, APPLY = Phase


def noting(monkeypatch, driver) -> list:
    """What is retained from now on, and before which step a state is saved: that in words."""
    given, outbox, saver = [], driver._outbox, driver._compute_thread._saver
    retain, take = outbox.retain, saver.take

    def note_and_retain(event, made, leaving):
        given.append((event.phase, event.step))
        retain(event, made, leaving)

    def note_and_take(step, state, **options):
        given.append(step)
        take(step, state, **options)

    monkeypatch.setattr(outbox, "retain", note_and_retain)
    monkeypatch.setattr(saver, "take", note_and_take)
    return given


def test_state_is_saved_behind_what_was_made_before_it(make_pair, monkeypatch):
    """Nobody has settled what the compute thread did since: saved at once, the snapshot would
    outrun the ties that it relies on."""
    lower = HeldBlock(held=True)
    pair = make_pair(num_steps=4, lag=1, blocks=(lower, HeldBlock()), snapshot_every=1)
    driver = pair.drivers[0]
    given, is_ahead = noting(monkeypatch, driver), threading.Event()
    handle = driver.core.handle

    def watching(event):
        actions = handle(event)
        if event == Computed(phase=FORWARD, step=0):
            is_ahead.set()
        return actions

    monkeypatch.setattr(driver.core, "handle", watching)
    pair.start()
    assert lower.begun.get(timeout=TIMEOUT_S) == ("forward", 0)
    lower.allow()
    assert is_ahead.wait(TIMEOUT_S)
    with driver._lock:  # nothing is settled meanwhile
        for begun in (("update", 0), ("apply", 0)):
            assert lower.begun.get(timeout=TIMEOUT_S) == begun
            lower.allow()
        assert given == [(FORWARD, 0)]
    for _ in range(10):
        lower.allow()
    pair.join()
    assert pair.failures == []
    assert given[:5] == [(FORWARD, 0), (UPDATE, 0), (APPLY, 0), 1, (FORWARD, 1)]


@pytest.mark.parametrize("every", [1, 3])
def test_states_are_copied_at_boundaries_and_saved_in_order(make_pair, monkeypatch, every):
    class Notes(HeldBlock):
        def __init__(self) -> None:
            super().__init__()
            self.copied_at: list[int] = []

        def state(self):
            self.copied_at.append(len(self.calls))
            return super().state()

    blocks = Notes(), Notes()
    pair = make_pair(num_steps=9, lag=1, blocks=blocks, snapshot_every=every)
    given = [noting(monkeypatch, driver) for driver in pair.drivers]
    pair.start()
    pair.join()
    assert pair.failures == []
    steps = list(range(every, 10, every))
    for block, seat, one in zip(blocks, pair.seats, given, strict=True):
        assert block.copied_at == [2 * step for step in steps]  # a FORWARD and an APPLY are noted
        assert one == [
            given_then
            for step in range(10)
            for given_then in (
                *([step] if step in steps else []),
                *([(phase, step) for phase in Phase] if step < 9 else []),
            )
        ]
        assert seat.saved() == (9, {"calls": 18})


@pytest.mark.parametrize(("pending", "word"), [(None, 0), (3, 0), (2, 3), (1, 2)])
def test_keeper_is_told_of_a_snapshot_when_its_step_is_reached(make_pair, pending, word):
    """Until then what takes long is the step before it, which is watched by itself."""
    pair = make_pair(num_steps=9, lag=1, blocks=(HeldBlock(), HeldBlock()), snapshot_every=1)
    driver, page = pair.drivers[0], pair.seats[0].memory.page
    driver.core.step, driver.core.snapshots.pending = 2, pending
    driver._tell_keeper()
    assert page[Field.SAVING] == word
