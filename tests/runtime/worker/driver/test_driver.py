"""A driver trains on the right messages, and neither thread waits for the other in vain."""

import threading
from types import SimpleNamespace

import pytest
import torch

from runtime.core.messages import Computed, Phase
from runtime.core.plan import Side, Stream
from runtime.core.state import State
from runtime.core.streams import ProtocolError
from runtime.links.link import Damaged, LinkError
from runtime.state.status_page import Field
from runtime.worker.compute_thread import Done, Saved
from runtime.worker.driver import MOST_RECEIVED, Driver
from runtime.worker.inbox import Ready
from runtime.worker.telemetry import Figures

from .pair import TIMEOUT_S, UP, HeldBlock, Ties


def test_workers_train_to_the_end_with_the_right_messages(make_pair):
    blocks = HeldBlock(), HeldBlock()
    pair = make_pair(num_steps=4, lag=1, blocks=blocks)
    pair.start()
    pair.join()
    assert pair.failures == []
    assert blocks[0].calls == [
        call
        for step in range(4)
        for call in (("forward", step, 0.0), ("apply", step, None, 19.0 + step if step else None))
    ]
    assert blocks[1].calls == [
        call
        for step in range(4)
        for call in (("forward", step, 1.0), ("apply", step, 10.0 + step, None))
    ]
    assert [driver.core.state for driver in pair.drivers] == [State.DONE] * 2
    lower, upper = (driver.core.edges.outgoing for driver in pair.drivers)
    assert {stream: outgoing.sent for stream, outgoing in lower.items()} == dict.fromkeys(UP, 4)
    assert upper[Stream.TIE_DOWN].sent == 3  # the last would be due after the end


def test_loop_leaves_the_threads_of_the_compute_thread_alone(make_pair):
    """The loop once set its own number of threads to 1, and so the process's default.

    A compute thread that had not computed yet then took 1 too, whatever the config said.
    """

    class Notes(HeldBlock):
        def forward(self, step, incoming):
            self.calls.append(torch.get_num_threads())
            return super().forward(step, incoming)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        blocks = Notes(), Notes()
        pair = make_pair(num_steps=1, lag=1, blocks=blocks)
        pair.start()
        pair.join()
    finally:
        torch.set_num_threads(before)
    assert pair.failures == []
    assert [block.calls[0] for block in blocks] == [3, 3]


def test_activation_leaves_before_the_backward_starts(make_pair):
    lower, upper = HeldBlock(held=True), HeldBlock(held=True)
    pair = make_pair(num_steps=2, lag=1, blocks=(lower, upper))
    pair.start()
    assert lower.begun.get(timeout=TIMEOUT_S) == ("forward", 0)
    lower.allow()
    assert lower.begun.get(timeout=TIMEOUT_S) == ("update", 0)
    # The lower block is held at the door of its update; the upper one has its input already.
    assert upper.begun.get(timeout=TIMEOUT_S) == ("forward", 0)
    for block in (lower, upper):
        for _ in range(8):
            block.allow()
    pair.join()
    assert pair.failures == []


def test_next_batch_is_received_while_one_is_computed(make_pair):
    lower, upper = HeldBlock(), HeldBlock(held=True)
    pair = make_pair(num_steps=3, lag=2, blocks=(lower, upper))
    arrived = threading.Event()
    handle = pair.drivers[1].core.handle

    def watching(event):
        actions = handle(event)
        if pair.drivers[1].core.edges.incoming[Stream.ACTIVATION].expected == 2:
            arrived.set()
        return actions

    pair.drivers[1].core.handle = watching
    pair.start()
    assert upper.begun.get(timeout=TIMEOUT_S) == ("forward", 0)
    assert arrived.wait(TIMEOUT_S), "batch 1 was not taken in during batch 0's forward"
    for _ in range(9):
        upper.allow()
    pair.join()
    assert pair.failures == []


def test_error_of_the_block_ends_both_threads(make_pair):
    class Fails(HeldBlock):
        def update(self, step):
            raise RuntimeError("no update today")

    pair = make_pair(num_steps=3, lag=1, blocks=(HeldBlock(), Fails()))
    pair.start()
    pair.join()
    assert [str(failure) for failure in pair.failures] == ["no update today"]


def test_tensor_that_was_not_agreed_on_is_refused(make_pair):
    class Wrong(HeldBlock):
        def forward(self, step, incoming):
            return (torch.zeros(5),)

    pair = make_pair(num_steps=3, lag=1, blocks=(Wrong(), HeldBlock()))
    pair.start()
    pair.join()
    (failure,) = pair.failures
    assert isinstance(failure, ValueError)
    assert "(5,)" in str(failure)
    assert "(4,)" in str(failure)


def test_silent_neighbour_is_an_error_not_a_wait(make_pair):
    blocks = HeldBlock(), HeldBlock()
    pair = make_pair(num_steps=3, lag=1, blocks=blocks, patience_s=0.3)
    pair.start(0)
    lower = pair.drivers[0]
    pair.drivers[1].run(until=lambda _: lower.core.edges.are_linked)
    pair.join()  # nobody turns the upper one's loop any more
    (failure,) = pair.failures
    assert isinstance(failure, LinkError)
    assert "nothing from the worker above" in str(failure)


def test_tie_that_is_not_finite_is_left_out_by_the_partner(make_pair):
    class Bad(HeldBlock):
        def update(self, step):
            ties = super().update(step)
            return Ties(up=None, down=None, absent=True) if step == 1 else ties

    blocks = Bad(), Bad()
    pair = make_pair(num_steps=4, lag=1, blocks=blocks)
    pair.start()
    pair.join()
    assert pair.failures == []
    applied = [[call[2:] for call in block.calls if call[0] == "apply"] for block in blocks]
    assert applied[0] == [(None, None), (None, 20.0), (None, None), (None, 22.0)]
    assert applied[1] == [(10.0, None), (None, None), (12.0, None), (13.0, None)]


def test_step_is_on_the_page_before_it_is_issued(make_pair):
    """A worker that dies in it has noted that it was begun: a job stops behind all that was."""
    pair = make_pair(num_steps=4, lag=1, blocks=(HeldBlock(), HeldBlock()))
    seen = []

    def watch(seat, computing):
        issue = computing.issue

        def look_and_issue(work):
            if isinstance(work, Ready):
                seen.append(work.action.step < seat.memory.page[Field.REACHED])
            issue(work)

        computing.issue = look_and_issue

    for seat, driver in zip(pair.seats, pair.drivers, strict=True):
        watch(seat, driver._compute_thread)
    pair.start()
    pair.join()
    assert seen == [True] * 2 * 4 * 3


def test_failure_is_not_hidden_by_what_follows_it(make_pair, monkeypatch):
    """The compute thread told the core of the next phase, which did not fit, and the job went on
    restarting a block that is not deterministic."""
    driver = make_pair(num_steps=4, lag=1, blocks=(HeldBlock(), HeldBlock())).drivers[0]

    def retain(event, made, leaving):
        raise ProtocolError("made again with different contents")

    monkeypatch.setattr(driver._outbox, "retain", retain)
    for phase in (Phase.FORWARD, Phase.UPDATE):
        event = Computed(phase=phase, step=0)
        driver._compute_thread._done.append(Done(event, {}, Figures(0.0, 0.0, 0), 0.0))
    with pytest.raises(ProtocolError, match="different contents"):
        driver._settle()
    driver._compute_thread._done.append(Saved(1, save_part=lambda: None, began_s=0.0, ended_s=0.0))
    monkeypatch.setattr(driver._outbox, "save", lambda *_: pytest.fail("saved behind a failure"))
    driver._settle()
    assert driver.core.state is State.LINKING


def test_turn_takes_a_bounded_number_of_messages():
    """A neighbour that never stops speaking would keep the loop from all its other work."""
    taken: list[Damaged] = []

    def receive() -> Damaged:
        assert len(taken) < 10 * MOST_RECEIVED, "it never ends"
        return Damaged(stream=None, reason="junk")

    loop = SimpleNamespace(_note_damage=lambda side, damaged: taken.append(damaged))
    Driver._take_messages(loop, Side.BELOW, SimpleNamespace(receive=receive))
    assert len(taken) == MOST_RECEIVED
