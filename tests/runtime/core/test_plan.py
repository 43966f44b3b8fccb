"""Which message is due at which step, and windows that could not work."""

from dataclasses import replace

import pytest

from runtime.core.plan import Side, Stream, Window, WorkerPlan

ACTIVATION, TIE_UP, TIE_DOWN = Stream
WINDOW = Window(max_messages=2, max_bytes=20, message_bytes=10)


def test_streams_have_one_direction():
    assert [(s.source, s.target) for s in Stream] == [
        (Side.BELOW, Side.ABOVE),
        (Side.BELOW, Side.ABOVE),
        (Side.ABOVE, Side.BELOW),
    ]


def test_downward_tie_alone_is_due_late():
    plan = WorkerPlan(num_steps=5, lag=2, incoming=dict.fromkeys(Stream, WINDOW) | wide_down(3))
    assert [plan.due(ACTIVATION, step) for step in range(3)] == [0, 1, 2]
    assert [plan.due(TIE_UP, step) for step in range(3)] == [0, 1, 2]
    assert [plan.due(TIE_DOWN, step) for step in range(5)] == [None, None, 0, 1, 2]


def test_stream_that_is_not_received_is_never_due():
    assert WorkerPlan(num_steps=5).due(TIE_UP, 3) is None


def test_downward_tie_due_after_the_last_step_is_not_counted():
    plan = WorkerPlan(num_steps=5, lag=2)
    assert [plan.num_messages(stream) for stream in Stream] == [5, 5, 3]
    assert WorkerPlan(num_steps=2, lag=3).num_messages(TIE_DOWN) == 0


def test_snapshot_has_used_up_what_the_steps_before_it_need():
    plan = WorkerPlan(num_steps=5, lag=2)
    assert [plan.consumed_before(ACTIVATION, step) for step in range(6)] == [0, 1, 2, 3, 4, 5]
    assert [plan.consumed_before(TIE_DOWN, step) for step in range(6)] == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_every_message_is_due_exactly_once(lag):
    plan = WorkerPlan(num_steps=6, lag=lag, incoming=dict.fromkeys(Stream, WINDOW) | wide_down(4))
    for stream in Stream:
        due = [plan.due(stream, step) for step in range(6)]
        assert [d for d in due if d is not None] == list(range(plan.num_messages(stream)))


def test_sides_are_the_ends_of_the_streams():
    bottom = WorkerPlan(num_steps=1, incoming={TIE_DOWN: WINDOW}, outgoing={ACTIVATION: WINDOW})
    top = WorkerPlan(num_steps=1, incoming={ACTIVATION: WINDOW}, outgoing={TIE_DOWN: WINDOW})
    assert bottom.sides() == {Side.ABOVE}
    assert top.sides() == {Side.BELOW}
    assert WorkerPlan(num_steps=1).sides() == frozenset()


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_downward_window_holds_the_lag(direction):
    WorkerPlan(num_steps=9, lag=3, **{direction: wide_down(4)})
    with pytest.raises(ValueError, match=r"downward window of 3 messages .* lag 3; .* at least 4"):
        WorkerPlan(num_steps=9, lag=3, **{direction: wide_down(3)})


def test_bytes_of_the_downward_window_hold_the_lag_too():
    """With lag 6 and bytes for two ties, both workers once waited for credit for ever."""
    few_bytes = Window(max_messages=7, max_bytes=20, message_bytes=10)
    with pytest.raises(ValueError, match=r"downward window of 2 messages .* lag 6; .* at least 7"):
        WorkerPlan(num_steps=9, lag=6, outgoing={TIE_DOWN: few_bytes})


def test_window_holds_two_messages_and_their_bytes():
    with pytest.raises(ValueError, match="window of 1 message; it must hold at least 2"):
        Window(max_messages=1, max_bytes=20, message_bytes=10)
    with pytest.raises(ValueError, match=r"19 bytes can't hold two messages of 10; .* at least 20"):
        Window(max_messages=2, max_bytes=19, message_bytes=10)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"num_steps": 0}, "0 steps; a run has at least 1"),
        ({"num_steps": 1, "lag": -1}, "lag -1 is negative; 0 ties neighbours step by step"),
        ({"num_steps": 1, "checkpoint_every": 1}, "checkpoints without snapshots; give snapshot_e"),
    ],
)
def test_plan_that_can_not_be_is_refused(figures, message):
    with pytest.raises(ValueError, match=message):
        WorkerPlan(**figures)


def test_least_room_to_retain_is_a_window_one_more_and_the_lag():
    plan = WorkerPlan(num_steps=9, lag=3, outgoing=dict.fromkeys(Stream, WINDOW) | wide_down(5))
    assert [plan.min_retained(stream) for stream in Stream] == [3, 3, 9]


def test_room_below_the_least_is_refused():
    down = wide_down(5)[TIE_DOWN]
    WorkerPlan(num_steps=9, lag=3, outgoing={TIE_DOWN: replace(down, max_retained=9)})
    with pytest.raises(
        ValueError, match=r"room to retain 8 messages of the tie_down stream; .* need 9"
    ):
        WorkerPlan(num_steps=9, lag=3, outgoing={TIE_DOWN: replace(down, max_retained=8)})


def wide_down(max_messages: int) -> dict[Stream, Window]:
    window = Window(max_messages=max_messages, max_bytes=10 * max_messages, message_bytes=10)
    return {TIE_DOWN: window}
