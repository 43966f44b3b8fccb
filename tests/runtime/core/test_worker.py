"""A worker's core by the letter: these events in, exactly these actions out."""

import subprocess
import sys

import pytest

from runtime.core.messages import (
    Finish,
    Phase,
    Rejected,
    SnapshotDurable,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.core.state import State
from runtime.core.streams import ProtocolError
from runtime.core.worker import HISTORY_LENGTH, IllegalEvent, WorkerCore

from .words import (
    ack,
    acked,
    arrived,
    begun,
    bottom,
    compute,
    done,
    hello,
    linked,
    middle,
    release,
    run_step,
    send,
    started,
    store,
    top,
    window,
)

ACTIVATION, TIE_UP, TIE_DOWN = Stream
FORWARD, UPDATE, APPLY = Phase
BELOW, ABOVE = Side


# A whole run -----------------------------------------------------------------------------------


def test_middle_worker_runs_two_steps_with_lag_1():
    core = WorkerCore(middle(num_steps=2, lag=1))
    assert core.start() == [
        hello(BELOW, to=None, asks=True, activation=0, tie_up=0),
        hello(ABOVE, to=None, asks=True, tie_down=0),
    ]
    conversation = [
        (
            linked(BELOW, to=None, asks=True),
            [hello(BELOW, to=0, asks=True, activation=0, tie_up=0)],
        ),
        (linked(BELOW), []),
        (linked(ABOVE, asks=True), [hello(ABOVE, to=0, asks=False, tie_down=0)]),
        # Step 0: nothing from above is due.
        (arrived(ACTIVATION, 0), [store(ACTIVATION, 0), *begun(0)]),
        (done(FORWARD, 0), [send(ACTIVATION, 0)]),
        (arrived(ACTIVATION, 1), [store(ACTIVATION, 1)]),
        (
            done(UPDATE, 0),
            [
                release(ACTIVATION, 0),
                ack(ACTIVATION, 2, 1),
                send(TIE_UP, 0),
                send(TIE_DOWN, 0),
            ],
        ),
        (arrived(TIE_UP, 0), [store(TIE_UP, 0), compute(APPLY, 0, below=0), *begun(1)]),
        (acked(TIE_DOWN, 1, 0), []),
        (done(APPLY, 0), [release(TIE_UP, 0), ack(TIE_UP, 1, 1)]),
        # Step 1: the tie of step 0 is due from above; its own would be due after the end.
        (arrived(TIE_UP, 1), [store(TIE_UP, 1)]),
        (done(FORWARD, 1), [send(ACTIVATION, 1)]),
        (done(UPDATE, 1), [release(ACTIVATION, 1), ack(ACTIVATION, 2, 2), send(TIE_UP, 1)]),
        (arrived(TIE_DOWN, 0), [store(TIE_DOWN, 0), compute(APPLY, 1, below=1, above=0)]),
        (
            done(APPLY, 1),
            [release(TIE_UP, 1), ack(TIE_UP, 2, 2), release(TIE_DOWN, 0), ack(TIE_DOWN, 1, 1)],
        ),
        # Draining: the neighbours still need what was sent.
        (acked(ACTIVATION, 2, 2, 2), [Trim(stream=ACTIVATION, step=2)]),
        (acked(TIE_UP, 2, 2, 2), [Trim(stream=TIE_UP, step=2)]),
        (acked(TIE_DOWN, 1, 1, 1), [Trim(stream=TIE_DOWN, step=1), Finish()]),
    ]
    for event, actions in conversation:
        assert core.handle(event) == actions, event
    assert core.state is State.DONE
    assert core.step == 2


def test_worker_alone_runs_its_steps_and_finishes():
    core = WorkerCore(WorkerPlan(num_steps=2))
    assert core.start() == begun(0)
    assert core.handle(done(FORWARD, 0)) == [compute(APPLY, 0), *begun(1)]
    assert core.handle(done(UPDATE, 0)) == []
    assert core.handle(done(APPLY, 0)) == []
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1)]
    assert core.handle(done(UPDATE, 1)) == []
    assert core.handle(done(APPLY, 1)) == [Finish()]


def test_downward_ties_are_all_made_though_the_last_are_not_sent():
    """Made they must be: if the job stops early, the resumed run sends them."""
    core = started(WorkerPlan(num_steps=3, lag=1, outgoing={TIE_DOWN: window()}))
    sent = [action for step in range(3) for action in run_step(core, step)]
    assert [action for action in sent if action in (send(TIE_DOWN, 0), send(TIE_DOWN, 1))]
    assert send(TIE_DOWN, 2) not in sent
    assert core.edges.outgoing[TIE_DOWN].made == 3
    assert core.state is State.DRAINING
    assert core.handle(acked(TIE_DOWN, 2, 2, 2)) == [Trim(stream=TIE_DOWN, step=2), Finish()]


def test_worker_starts_when_every_neighbour_is_linked():
    core = WorkerCore(middle())
    core.start()
    core.handle(linked(BELOW))
    assert core.handle(arrived(ACTIVATION, 0)) == [store(ACTIVATION, 0)]
    assert core.state is State.LINKING
    assert compute(FORWARD, 0) in core.handle(linked(ABOVE))


def test_actions_do_not_depend_on_the_hash_seed():
    """The neighbours were in a set of enum members, whose order Python draws per process."""
    program = (
        "from runtime.core.plan import *; from runtime.core.worker import WorkerCore;"
        "w = dict.fromkeys(Stream, Window(max_messages=2, max_bytes=2, message_bytes=1));"
        "print(WorkerCore(WorkerPlan(num_steps=1, incoming=w, outgoing=w)).start())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(outputs) == 1


# Illegal events --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        done(UPDATE, 0),
        done(FORWARD, 1),
        done(FORWARD, 0, absent=True),
        SnapshotDurable(step=0),
        "no event at all",
    ],
)
def test_illegal_event_raises_its_history_and_changes_nothing(event):
    core = started(bottom())
    core.handle(acked(ACTIVATION, 0, 0))
    before = vars(core.edges.outgoing[ACTIVATION]).copy()
    with pytest.raises(IllegalEvent) as caught:
        core.handle(event)
    assert "in state FORWARD" in str(caught.value)
    assert "step 0 FORWARD: Received(side=<Side.ABOVE" in str(caught.value)
    assert "step 0 LINKING: Received" in str(caught.value)
    assert (core.state, core.step) == (State.FORWARD, 0)
    assert vars(core.edges.outgoing[ACTIVATION]) == before
    # It goes on as if nothing had been said.
    assert core.handle(done(FORWARD, 0)) == [
        send(ACTIVATION, 0),
        compute(APPLY, 0),
        *begun(1),
    ]
    assert str(event) not in core.describe()


@pytest.mark.parametrize("event", [done(FORWARD, 0), SnapshotDurable(step=0)])
def test_computed_is_illegal_while_nothing_runs(event):
    core = started(top())
    assert core.state is State.WAIT_INPUT
    with pytest.raises(IllegalEvent):
        core.handle(event)


def test_snapshot_of_another_step_is_illegal():
    core = started(top(snapshot_every=1))
    run_step(core, 0, needs=(ACTIVATION,))
    with pytest.raises(IllegalEvent):
        core.handle(SnapshotDurable(step=0))
    core.handle(SnapshotDurable(step=1))


def test_history_is_bounded():
    core = started(top())
    for _ in range(2 * HISTORY_LENGTH):
        core.handle(Tick())
    assert len(core.describe().splitlines()) == HISTORY_LENGTH + 1


# Duplicates, gaps, windows ---------------------------------------------------------------------


def test_duplicate_is_dropped_and_counted():
    core = started(top())
    core.handle(arrived(ACTIVATION, 0))
    assert core.handle(arrived(ACTIVATION, 0)) == []
    assert core.edges.num_duplicates == 1


def test_duplicate_with_another_checksum_is_an_error():
    core = started(top())
    core.handle(arrived(ACTIVATION, 0, checksum=1))
    with pytest.raises(ProtocolError, match="message 0 came twice"):
        core.handle(arrived(ACTIVATION, 0, checksum=2))


def test_message_beyond_the_window_is_an_error():
    core = started(top())
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(ACTIVATION, 1))
    with pytest.raises(ProtocolError, match="exceeds the window of 2"):
        core.handle(arrived(ACTIVATION, 2))


def test_gap_asks_for_a_resend_and_stores_nothing():
    core = started(top(size=4))
    core.handle(arrived(ACTIVATION, 0))
    assert core.handle(arrived(ACTIVATION, 2)) == [ack(ACTIVATION, 1, 0, resend=True)]
    assert core.handle(arrived(ACTIVATION, 1)) == [store(ACTIVATION, 1)]


def test_damaged_message_asks_for_a_resend():
    core = started(top())
    assert core.handle(Rejected(stream=ACTIVATION)) == [ack(ACTIVATION, 0, 0, resend=True)]


def test_resend_sends_everything_from_there_again():
    core = started(bottom(size=3))
    for step in range(3):
        run_step(core, step)
    again = core.handle(acked(ACTIVATION, 1, 0, resend=True))
    assert again == [send(ACTIVATION, 1), send(ACTIVATION, 2)]
    assert core.edges.num_resent == 2


# Credit ----------------------------------------------------------------------------------------


def test_credit_is_awaited_by_one_message_at_most():
    core = started(bottom())
    run_step(core, 0)
    run_step(core, 1)
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2)]  # made, but not sent
    assert core.handle(done(UPDATE, 2)) == []
    assert core.handle(done(APPLY, 2)) == []
    assert core.state is State.WAIT_CREDIT
    # What has arrived and is not released gives no credit.
    assert core.handle(acked(ACTIVATION, 2, 0)) == []
    freed = core.handle(acked(ACTIVATION, 2, 1))
    assert freed == [send(ACTIVATION, 2), *begun(3)]


def test_credit_is_also_in_bytes():
    few_bytes = Window(max_messages=4, max_bytes=20, message_bytes=10)
    core = started(WorkerPlan(num_steps=4, outgoing={ACTIVATION: few_bytes}))
    run_step(core, 0)
    run_step(core, 1)
    assert send(ACTIVATION, 2) not in run_step(core, 2)


def test_absent_tie_costs_no_bytes():
    few_bytes = Window(max_messages=4, max_bytes=20, message_bytes=10)
    core = started(WorkerPlan(num_steps=4, outgoing={TIE_UP: few_bytes}))
    for step in range(3):
        # There is credit for the tie of this step, so that the next one may follow.
        assert core.handle(done(FORWARD, step)) == [compute(APPLY, step), *begun(step + 1)]
        absent = step == 1
        sent = core.handle(done(UPDATE, step, absent=absent))
        assert sent == [send(TIE_UP, step, absent=absent)]
        assert core.handle(done(APPLY, step)) == []


def test_absent_term_is_left_out_and_its_marker_released():
    core = started(middle(num_steps=3, lag=0))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(TIE_UP, 0, absent=True))
    core.handle(done(FORWARD, 0))
    core.handle(done(UPDATE, 0))
    assert core.handle(arrived(TIE_DOWN, 0)) == [store(TIE_DOWN, 0), compute(APPLY, 0, above=0)]
    assert release(TIE_UP, 0) in core.handle(done(APPLY, 0))


def test_absent_term_from_above_is_left_out():
    core = started(middle(num_steps=3, lag=0))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(TIE_UP, 0))
    core.handle(done(FORWARD, 0))
    core.handle(done(UPDATE, 0))
    actions = core.handle(arrived(TIE_DOWN, 0, absent=True))
    assert actions == [store(TIE_DOWN, 0), compute(APPLY, 0, below=0)]


def test_forward_waits_for_its_own_activation():
    core = started(top())
    run_step(core, 0, needs=(ACTIVATION,))
    assert core.state is State.WAIT_INPUT
    assert core.handle(arrived(ACTIVATION, 1)) == [store(ACTIVATION, 1), *begun(1)]
