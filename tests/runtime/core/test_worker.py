"""A worker's core by the letter: these events in, exactly these actions out."""

import subprocess
import sys

import pytest

from runtime.core.messages import (
    Acknowledge,
    Acknowledged,
    Arrived,
    Compute,
    Computed,
    Finish,
    Hello,
    Keep,
    Linked,
    Phase,
    Rejected,
    Release,
    Send,
    Snapshot,
    SnapshotTaken,
    SnapshotWanted,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.core.streams import ProtocolError
from runtime.core.worker import HISTORY_LENGTH, IllegalEvent, State, WorkerCore

ACTIVATION, TIE_UP, TIE_DOWN = Stream
FORWARD, UPDATE, APPLY = Phase
BELOW, ABOVE = Side


def window(max_messages: int = 2) -> Window:
    return Window(max_messages=max_messages, max_bytes=10 * max_messages, message_bytes=10)


def middle(num_steps: int = 2, *, lag: int = 1, size: int = 2, snapshot_every: int = 0):
    windows = dict.fromkeys(Stream, window(size))
    return WorkerPlan(
        num_steps=num_steps,
        lag=lag,
        incoming=windows,
        outgoing=windows,
        snapshot_every=snapshot_every,
    )


def top(num_steps: int = 4, *, size: int = 2, snapshot_every: int = 0) -> WorkerPlan:
    """A receiver of activations only."""
    return WorkerPlan(
        num_steps=num_steps, incoming={ACTIVATION: window(size)}, snapshot_every=snapshot_every
    )


def bottom(num_steps: int = 4, *, size: int = 2, snapshot_every: int = 0) -> WorkerPlan:
    """A sender of activations only."""
    return WorkerPlan(
        num_steps=num_steps, outgoing={ACTIVATION: window(size)}, snapshot_every=snapshot_every
    )


def linked(side: Side, generation: int = 0, **wants: int) -> Linked:
    streams = [stream for stream in Stream if stream.target is side]
    full = {stream: wants.get(stream.value, 0) for stream in streams}
    return Linked(side=side, generation=generation, wants=full)


def arrived(stream: Stream, step: int, *, generation=0, checksum=None, absent=False) -> Arrived:
    checksum = step if checksum is None else checksum
    return Arrived(
        stream=stream, step=step, generation=generation, checksum=checksum, absent=absent
    )


def done(phase: Phase, step: int, *, absent: bool = False) -> Computed:
    return Computed(phase=phase, step=step, absent=absent)


def compute(phase: Phase, step: int, below: int | None = None, above: int | None = None) -> Compute:
    return Compute(phase=phase, step=step, from_below=below, from_above=above)


def acked(stream, expected, released, durable=0, *, generation=0, resend=False) -> Acknowledged:
    return Acknowledged(
        stream=stream,
        generation=generation,
        expected=expected,
        released=released,
        durable=durable,
        resend=resend,
    )


def ack(stream, expected, released, durable=None, *, resend=False) -> Acknowledge:
    durable = released if durable is None else durable
    return Acknowledge(
        stream=stream, expected=expected, released=released, durable=durable, resend=resend
    )


def keep(stream: Stream, step: int) -> Keep:
    return Keep(stream=stream, step=step)


def send(stream: Stream, step: int, *, absent: bool = False) -> Send:
    return Send(stream=stream, step=step, absent=absent)


def release(stream: Stream, step: int) -> Release:
    return Release(stream=stream, step=step)


def started(plan: WorkerPlan, *, start_step: int = 0, generation: int = 0) -> WorkerCore:
    """A core whose neighbours have said hello."""
    core = WorkerCore(plan, start_step=start_step, generation=generation)
    core.start()
    for side in plan.sides():
        core.handle(linked(side))
    return core


def run_step(core: WorkerCore, step: int, *, needs: tuple[Stream, ...] = ()) -> list:
    """Deliver what `step` needs and finish its phases; return all actions."""
    actions = []
    for stream in needs:
        actions += core.handle(arrived(stream, step))
    for phase in Phase:
        actions += core.handle(done(phase, step))
    return actions


# A whole run -----------------------------------------------------------------------------------


def test_two_steps_of_a_middle_worker_with_lag_1():
    core = WorkerCore(middle(num_steps=2, lag=1))
    wants_below, wants_above = {ACTIVATION: 0, TIE_UP: 0}, {TIE_DOWN: 0}
    assert core.start() == [
        Hello(side=BELOW, generation=0, wants=wants_below),
        Hello(side=ABOVE, generation=0, wants=wants_above),
    ]
    conversation = [
        (linked(BELOW), [Hello(side=BELOW, generation=0, wants=wants_below)]),
        (linked(ABOVE), [Hello(side=ABOVE, generation=0, wants=wants_above)]),
        # Step 0: nothing from above is due.
        (arrived(ACTIVATION, 0), [keep(ACTIVATION, 0), compute(FORWARD, 0)]),
        (done(FORWARD, 0), [compute(UPDATE, 0), send(ACTIVATION, 0)]),
        (arrived(ACTIVATION, 1), [keep(ACTIVATION, 1)]),
        (
            done(UPDATE, 0),
            [
                release(ACTIVATION, 0),
                ack(ACTIVATION, 2, 1),
                send(TIE_UP, 0),
                send(TIE_DOWN, 0),
            ],
        ),
        (arrived(TIE_UP, 0), [keep(TIE_UP, 0), compute(APPLY, 0, below=0)]),
        (acked(TIE_DOWN, 1, 0), []),
        (done(APPLY, 0), [release(TIE_UP, 0), ack(TIE_UP, 1, 1), compute(FORWARD, 1)]),
        # Step 1: the tie of step 0 is due from above; its own would be due after the end.
        (arrived(TIE_UP, 1), [keep(TIE_UP, 1)]),
        (done(FORWARD, 1), [compute(UPDATE, 1), send(ACTIVATION, 1)]),
        (done(UPDATE, 1), [release(ACTIVATION, 1), ack(ACTIVATION, 2, 2), send(TIE_UP, 1)]),
        (arrived(TIE_DOWN, 0), [keep(TIE_DOWN, 0), compute(APPLY, 1, below=1, above=0)]),
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


def test_a_worker_alone_runs_its_steps_and_finishes():
    core = WorkerCore(WorkerPlan(num_steps=2))
    assert core.start() == [compute(FORWARD, 0)]
    assert run_step(core, 0) == [compute(UPDATE, 0), compute(APPLY, 0), compute(FORWARD, 1)]
    assert run_step(core, 1) == [compute(UPDATE, 1), compute(APPLY, 1), Finish()]


def test_nothing_starts_before_every_neighbour_is_linked():
    core = WorkerCore(middle())
    core.start()
    core.handle(linked(BELOW))
    assert core.handle(arrived(ACTIVATION, 0)) == [keep(ACTIVATION, 0)]
    assert core.state is State.LINKING
    assert compute(FORWARD, 0) in core.handle(linked(ABOVE))


def test_actions_do_not_depend_on_the_hash_seed():
    """The neighbours were kept in a set of enum members, whose order Python draws per process."""
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
        SnapshotTaken(step=0),
        "no event at all",
    ],
)
def test_an_illegal_event_raises_with_the_history_and_changes_nothing(event):
    core = started(bottom())
    core.handle(acked(ACTIVATION, 0, 0))
    before = vars(core.outgoing[ACTIVATION]).copy()
    with pytest.raises(IllegalEvent) as caught:
        core.handle(event)
    assert "in state FORWARD" in str(caught.value)
    assert "step 0 FORWARD: Acknowledged" in str(caught.value)
    assert "step 0 LINKING: Linked" in str(caught.value)
    assert (core.state, core.step) == (State.FORWARD, 0)
    assert vars(core.outgoing[ACTIVATION]) == before
    # It goes on as if nothing had been said.
    assert core.handle(done(FORWARD, 0)) == [compute(UPDATE, 0), send(ACTIVATION, 0)]
    assert "UPDATE, step=1" not in core.describe()


@pytest.mark.parametrize("event", [done(FORWARD, 0), SnapshotTaken(step=0)])
def test_nothing_can_finish_while_nothing_runs(event):
    core = started(top())
    assert core.state is State.WAIT_INPUT
    with pytest.raises(IllegalEvent):
        core.handle(event)


def test_a_snapshot_of_another_step_is_illegal():
    core = started(top())
    core.handle(SnapshotWanted())
    with pytest.raises(IllegalEvent):
        core.handle(SnapshotTaken(step=1))
    core.handle(SnapshotTaken(step=0))


def test_the_history_is_bounded():
    core = started(top())
    for _ in range(2 * HISTORY_LENGTH):
        core.handle(Tick())
    assert len(core.describe().splitlines()) == HISTORY_LENGTH + 1


# Duplicates, gaps, windows ---------------------------------------------------------------------


def test_a_duplicate_is_dropped_and_counted():
    core = started(top())
    core.handle(arrived(ACTIVATION, 0))
    assert core.handle(arrived(ACTIVATION, 0)) == []
    assert core.num_duplicates == 1


def test_a_duplicate_with_another_checksum_is_an_error():
    core = started(top())
    core.handle(arrived(ACTIVATION, 0, checksum=1))
    with pytest.raises(ProtocolError, match="message 0 came twice"):
        core.handle(arrived(ACTIVATION, 0, checksum=2))


def test_a_message_beyond_the_window_is_an_error():
    core = started(top())
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(ACTIVATION, 1))
    with pytest.raises(ProtocolError, match="exceeds the window of 2"):
        core.handle(arrived(ACTIVATION, 2))


def test_a_gap_asks_for_a_resend_and_keeps_nothing():
    core = started(top(size=4))
    core.handle(arrived(ACTIVATION, 0))
    assert core.handle(arrived(ACTIVATION, 2)) == [ack(ACTIVATION, 1, 0, resend=True)]
    assert core.handle(arrived(ACTIVATION, 1)) == [keep(ACTIVATION, 1)]


def test_a_damaged_message_asks_for_a_resend():
    core = started(top())
    assert core.handle(Rejected(stream=ACTIVATION)) == [ack(ACTIVATION, 0, 0, resend=True)]


def test_resend_sends_everything_from_there_again():
    core = started(bottom(size=3))
    for step in range(3):
        run_step(core, step)
    again = core.handle(acked(ACTIVATION, 1, 0, resend=True))
    assert again == [send(ACTIVATION, 1), send(ACTIVATION, 2)]
    assert core.num_replayed == 2


# Credit ----------------------------------------------------------------------------------------


def test_at_most_one_message_waits_for_credit():
    core = started(bottom())
    run_step(core, 0)
    run_step(core, 1)
    assert core.handle(done(FORWARD, 2)) == [compute(UPDATE, 2)]  # made, but not sent
    core.handle(done(UPDATE, 2))
    assert core.handle(done(APPLY, 2)) == []
    assert core.state is State.WAIT_CREDIT
    # Arrived and not released gives no credit.
    assert core.handle(acked(ACTIVATION, 2, 0)) == []
    freed = core.handle(acked(ACTIVATION, 2, 1))
    assert freed == [send(ACTIVATION, 2), compute(FORWARD, 3)]


def test_credit_is_also_in_bytes():
    few_bytes = Window(max_messages=4, max_bytes=20, message_bytes=10)
    core = started(WorkerPlan(num_steps=4, outgoing={ACTIVATION: few_bytes}))
    run_step(core, 0)
    run_step(core, 1)
    assert send(ACTIVATION, 2) not in run_step(core, 2)


def test_an_absent_tie_costs_no_bytes():
    few_bytes = Window(max_messages=4, max_bytes=20, message_bytes=10)
    core = started(WorkerPlan(num_steps=4, outgoing={TIE_UP: few_bytes}))
    for step in range(3):
        core.handle(done(FORWARD, step))
        absent = step == 1
        sent = core.handle(done(UPDATE, step, absent=absent))
        assert sent == [send(TIE_UP, step, absent=absent), compute(APPLY, step)]
        core.handle(done(APPLY, step))


def test_an_absent_term_is_left_out_and_its_marker_released():
    core = started(middle(num_steps=3, lag=0))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(TIE_UP, 0, absent=True))
    core.handle(done(FORWARD, 0))
    core.handle(done(UPDATE, 0))
    assert core.handle(arrived(TIE_DOWN, 0)) == [keep(TIE_DOWN, 0), compute(APPLY, 0, above=0)]
    assert release(TIE_UP, 0) in core.handle(done(APPLY, 0))


def test_an_absent_term_from_above_is_left_out():
    core = started(middle(num_steps=3, lag=0))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(TIE_UP, 0))
    core.handle(done(FORWARD, 0))
    core.handle(done(UPDATE, 0))
    actions = core.handle(arrived(TIE_DOWN, 0, absent=True))
    assert actions == [keep(TIE_DOWN, 0), compute(APPLY, 0, below=0)]


def test_a_forward_waits_for_its_own_activation():
    core = started(top())
    run_step(core, 0, needs=(ACTIVATION,))
    assert core.state is State.WAIT_INPUT
    assert core.handle(arrived(ACTIVATION, 1)) == [keep(ACTIVATION, 1), compute(FORWARD, 1)]


# Generations -----------------------------------------------------------------------------------


def test_a_dead_generation_is_fenced_off():
    core = started(middle())
    core.handle(linked(BELOW, generation=2))
    core.handle(linked(ABOVE, generation=2))
    assert core.handle(arrived(ACTIVATION, 0, generation=1)) == []
    assert core.handle(acked(ACTIVATION, 9, 9, 9, generation=1)) == []
    assert core.handle(linked(BELOW, generation=1)) == []
    assert core.num_fenced == 3
    assert core.peers == {BELOW: 2, ABOVE: 2}
    assert core.outgoing[ACTIVATION].released == 0


def test_before_a_hello_everything_is_fenced_off():
    core = WorkerCore(top())
    core.start()
    assert core.handle(arrived(ACTIVATION, 0)) == []
    assert core.num_fenced == 1


def test_a_second_hello_of_one_generation_changes_nothing():
    core = started(bottom())
    run_step(core, 0)
    assert core.handle(linked(ABOVE, activation=0)) == []
    assert core.num_replayed == 0


def test_a_new_generation_gets_a_hello_and_a_replay_from_what_it_wants():
    core = started(bottom(size=3, snapshot_every=100))
    for step in range(3):
        run_step(core, step)
        core.handle(acked(ACTIVATION, step + 1, step + 1, 1 if step else 0))
    actions = core.handle(linked(ABOVE, generation=1, activation=1))
    assert actions == [
        Hello(side=ABOVE, generation=0, wants={}),
        send(ACTIVATION, 1),
        send(ACTIVATION, 2),
    ]
    assert core.num_replayed == 2


def test_the_replay_stays_within_the_window():
    core = started(bottom(num_steps=9, snapshot_every=100))
    for step in range(5):
        run_step(core, step)
        core.handle(acked(ACTIVATION, step + 1, step + 1, 0))
    actions = core.handle(linked(ABOVE, generation=1))
    assert actions[1:] == [send(ACTIVATION, 0), send(ACTIVATION, 1)]
    actions = core.handle(acked(ACTIVATION, 2, 1, generation=1))
    assert actions == [send(ACTIVATION, 2)]


def test_wanting_what_is_forgotten_is_an_error():
    core = started(bottom())
    run_step(core, 0)
    core.handle(acked(ACTIVATION, 1, 1, 1))
    with pytest.raises(ProtocolError, match="message 0 is wanted"):
        core.handle(linked(ABOVE, generation=1, activation=0))


def test_a_restarted_worker_wants_what_its_snapshot_has_not_used_up():
    core = WorkerCore(middle(num_steps=9, lag=1), generation=4, start_step=5)
    assert core.start() == [
        Hello(side=BELOW, generation=4, wants={ACTIVATION: 5, TIE_UP: 5}),
        Hello(side=ABOVE, generation=4, wants={TIE_DOWN: 4}),
    ]


def test_a_restarted_worker_sends_what_was_kept_for_it():
    kept = {ACTIVATION: {3: False, 4: False}}
    core = WorkerCore(bottom(num_steps=9, snapshot_every=5), generation=1, start_step=5, kept=kept)
    core.start()
    assert core.handle(linked(ABOVE, activation=4)) == [
        Hello(side=ABOVE, generation=1, wants={}),
        send(ACTIVATION, 4),
        compute(FORWARD, 5),
    ]
    # Message 3 may still fill the window: what is made next waits for the receiver's word.
    assert core.handle(done(FORWARD, 5)) == [compute(UPDATE, 5)]
    assert core.handle(acked(ACTIVATION, 5, 4)) == [send(ACTIVATION, 5)]


def test_a_worker_restarted_after_its_last_step_only_drains():
    core = WorkerCore(bottom(num_steps=2), generation=1, start_step=2)
    core.start()
    assert core.handle(linked(ABOVE, activation=2))[-1] == Finish()


# Snapshots -------------------------------------------------------------------------------------


def test_durable_follows_the_snapshot_and_the_snapshot_follows_the_plan():
    core = started(top(num_steps=4, snapshot_every=2))
    actions = run_step(core, 0, needs=(ACTIVATION,))
    assert ack(ACTIVATION, 1, 1, 0) in actions
    assert not any(isinstance(action, Snapshot) for action in actions)
    actions = run_step(core, 1, needs=(ACTIVATION,))
    assert ack(ACTIVATION, 2, 2, 0) in actions
    assert actions[-1] == Snapshot(step=2)
    assert core.state is State.SNAPSHOT
    # Messages are taken meanwhile; the next step waits.
    assert core.handle(arrived(ACTIVATION, 2)) == [keep(ACTIVATION, 2)]
    assert core.handle(SnapshotTaken(step=2)) == [ack(ACTIVATION, 3, 2, 2), compute(FORWARD, 2)]


def test_the_durable_figure_of_a_downward_tie_is_late_by_the_lag():
    plan = WorkerPlan(num_steps=9, lag=1, incoming={TIE_DOWN: window()}, snapshot_every=3)
    core = started(plan)
    for step in range(3):
        run_step(core, step, needs=(TIE_DOWN,))
    assert core.handle(SnapshotTaken(step=3))[0] == ack(TIE_DOWN, 3, 2, 2)


def test_messages_are_forgotten_when_they_are_durable_and_not_before():
    core = started(bottom(snapshot_every=100))
    run_step(core, 0)
    assert core.handle(acked(ACTIVATION, 1, 1, 0)) == []
    assert core.handle(acked(ACTIVATION, 1, 1, 1)) == [Trim(stream=ACTIVATION, step=1)]
    assert core.handle(acked(ACTIVATION, 1, 1, 1)) == []


def test_a_snapshot_wanted_while_waiting_for_input_is_taken_at_once():
    core = started(top(snapshot_every=100))
    assert core.state is State.WAIT_INPUT
    assert core.handle(SnapshotWanted()) == [Snapshot(step=0)]
    assert core.handle(SnapshotTaken(step=0)) == [ack(ACTIVATION, 0, 0, 0)]
    assert core.state is State.WAIT_INPUT


def test_a_snapshot_wanted_while_waiting_for_credit_is_taken_at_once():
    core = started(bottom(snapshot_every=100))
    for step in range(3):
        run_step(core, step)
    assert core.state is State.WAIT_CREDIT
    assert core.handle(SnapshotWanted()) == [Snapshot(step=3)]
    assert core.handle(SnapshotTaken(step=3)) == []
    assert core.state is State.WAIT_CREDIT


def test_a_snapshot_wanted_within_a_step_waits_for_its_end():
    core = started(top(snapshot_every=100))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(ACTIVATION, 1))
    assert core.handle(SnapshotWanted()) == []
    assert Snapshot(step=1) not in core.handle(done(FORWARD, 0))
    core.handle(done(UPDATE, 0))
    assert core.handle(done(APPLY, 0)) == [Snapshot(step=1)]


def test_the_last_step_ends_in_a_snapshot():
    core = started(top(num_steps=1, snapshot_every=100))
    assert run_step(core, 0, needs=(ACTIVATION,))[-1] == Snapshot(step=1)
    assert core.handle(SnapshotTaken(step=1)) == [ack(ACTIVATION, 1, 1, 1), Finish()]


# The end and the tick --------------------------------------------------------------------------


def test_a_worker_drains_until_its_neighbour_does_not_need_it():
    core = started(bottom(num_steps=1, snapshot_every=1))
    run_step(core, 0)
    core.handle(SnapshotTaken(step=1))
    assert core.state is State.DRAINING
    assert core.handle(acked(ACTIVATION, 1, 1, 0)) == []  # a restart would want it again
    assert core.handle(linked(ABOVE, generation=1))[-1] == send(ACTIVATION, 0)
    last = core.handle(acked(ACTIVATION, 1, 1, 1, generation=1))
    assert last == [Trim(stream=ACTIVATION, step=1), Finish()]


def test_a_finished_worker_still_repeats_its_last_word():
    core = started(top(num_steps=1))
    run_step(core, 0, needs=(ACTIVATION,))
    assert core.state is State.DONE
    assert core.handle(Tick()) == [ack(ACTIVATION, 1, 1)]


def test_a_tick_says_hello_to_those_who_have_not_and_repeats_every_word():
    core = WorkerCore(middle())
    core.start()
    core.handle(linked(BELOW))
    core.handle(arrived(ACTIVATION, 0))
    assert core.handle(Tick()) == [
        Hello(side=ABOVE, generation=0, wants={TIE_DOWN: 0}),
        ack(ACTIVATION, 1, 0),
        ack(TIE_UP, 0, 0),
        ack(TIE_DOWN, 0, 0),
    ]
    core.handle(linked(ABOVE))
    assert not any(isinstance(action, Hello) for action in core.handle(Tick()))
