"""A worker's core where something was lost: generations, replays, snapshots, the end."""

import pytest

from runtime.core.messages import (
    Acknowledge,
    Finish,
    Hello,
    Phase,
    Snapshot,
    SnapshotTaken,
    SnapshotWanted,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.streams import ProtocolError
from runtime.core.worker import State, WorkerCore

from .words import (
    ack,
    acked,
    arrived,
    bottom,
    compute,
    done,
    keep,
    linked,
    middle,
    run_step,
    send,
    started,
    top,
    window,
)

ACTIVATION, TIE_UP, TIE_DOWN = Stream
FORWARD, UPDATE, APPLY = Phase
BELOW, ABOVE = Side


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


def test_a_tick_is_a_sign_of_life_where_nothing_is_received():
    """Untied, a worker receives nothing from above: the upper one once heard it only at steps."""
    plan = WorkerPlan(num_steps=2, outgoing={ACTIVATION: window()})
    core = started(plan)
    assert Hello(side=ABOVE, generation=0, wants={}) in core.handle(Tick())


def test_what_was_lost_in_silence_is_sent_again():
    lower = started(WorkerPlan(num_steps=2, outgoing={ACTIVATION: window()}))
    upper = started(WorkerPlan(num_steps=2, incoming={ACTIVATION: window()}))
    lower.handle(done(FORWARD, 0))  # its message is lost
    words = [action for _ in range(50) for action in upper.handle(Tick())]
    (again,) = [word for word in words if isinstance(word, Acknowledge) and word.resend]
    answer = lower.handle(acked(ACTIVATION, again.expected, again.released, resend=True))
    assert send(ACTIVATION, 0) in answer
