"""Each rule against deadlock and for exactly once, taken out: some fault plan then fails.

What this shows is that the plans are hard enough to need every rule of the design.
"""

from dataclasses import replace

import pytest

from runtime.core import worker
from runtime.core.edges import Edges
from runtime.core.messages import Ack, Phase, SnapshotDurable, SnapshotRequest
from runtime.core.plan import Stream, WorkerPlan
from runtime.core.state import State
from runtime.core.streams import Incoming, Outgoing, ProtocolError
from runtime.core.worker import WorkerCore
from runtime.testing import simulated_faults
from runtime.testing.hashed_blocks import Case
from runtime.testing.simulated_faults import PlanFailed, random_plan, run_plan
from runtime.testing.simulation import Stuck

ACTIVATION, TIE_UP, TIE_DOWN = Stream

# Each catches at least one of the broken cores below; most are caught by several.
SEEDS = (
    *(4, 6, 7, 8, 12, 14, 16, 17, 18, 20, 21, 24, 28, 30, 32, 38, 50, 52, 59, 67, 72),
    *(140, 271, 414),
)


def all_streams_of_an_edge_share_one_credit(monkeypatch):
    """What is resent then fills it with activations, and the tie that is waited for never goes."""
    make, has_credit = Edges.__init__, Outgoing.has_credit

    def make_and_join(self, *args, **kwargs):
        make(self, *args, **kwargs)
        for stream, outgoing in self.outgoing.items():
            outgoing.all_of_edge = [
                other for s, other in self.outgoing.items() if s.target is stream.target
            ]

    def has_shared_credit(self):
        num_flying = sum(len(other.in_flight) for other in self.all_of_edge)
        return has_credit.fget(self) and num_flying < self.window.max_messages

    monkeypatch.setattr(Edges, "__init__", make_and_join)
    monkeypatch.setattr(Outgoing, "has_credit", property(has_shared_credit))


def credit_for_one_stream_counts_for_all(monkeypatch):
    original = Edges.take_ack

    def take_ack(self, ack):
        yield from original(self, ack)
        for stream, outgoing in self.outgoing.items():
            if stream.target is ack.stream.target:
                outgoing.released = max(outgoing.released, ack.released)

    monkeypatch.setattr(Edges, "take_ack", take_ack)


def credit_is_not_returned_after_a_rewind(monkeypatch):
    rewind, acknowledge = Outgoing.rewind, Outgoing.acknowledge
    rewound = set()

    def rewind_and_note(self, wanted):
        if wanted < self.sent:
            rewound.add(self)
        rewind(self, wanted)

    def acknowledge_less(self, *, released, **ack):
        released = self.released if self in rewound else released
        return acknowledge(self, released=released, **ack)

    monkeypatch.setattr(Outgoing, "rewind", rewind_and_note)
    monkeypatch.setattr(Outgoing, "acknowledge", acknowledge_less)


def a_tick_repeats_nothing_but_hello(monkeypatch):
    original = Edges.repeat
    monkeypatch.setattr(
        Edges,
        "repeat",
        lambda self: [said for said in original(self) if not isinstance(said.message, Ack)],
    )


def silence_asks_for_nothing(monkeypatch):
    monkeypatch.setattr(Incoming, "count_quiet_tick", lambda self: False)


def no_snapshot_is_taken_for_room(monkeypatch):
    """Neither on demand nor before what has none; tests/property/test_room.py tells them apart."""
    monkeypatch.setattr(Edges, "outruns_room", lambda *_, **__: False)
    monkeypatch.setattr(Edges, "ask_for_room", lambda self, stream: iter(()))


def no_snapshot_while_waiting(monkeypatch):
    monkeypatch.setattr(Edges, "outruns_room", lambda *_, **__: False)
    original = WorkerCore._snapshot_requested
    waiting = State.WAIT_CREDIT, State.WAIT_INPUT, State.DRAINING
    monkeypatch.setitem(
        worker._MESSAGES,
        SnapshotRequest,
        lambda self, request: None if self.state in waiting else original(self, request),
    )


def messages_are_forgotten_when_they_are_released(monkeypatch):
    original = Edges.ack

    def ack(self, stream, *, resend=False):
        said = original(self, stream, resend=resend)
        return replace(said, message=replace(said.message, durable=said.message.released))

    monkeypatch.setattr(Edges, "ack", ack)


def downward_ties_are_forgotten_without_the_lag(monkeypatch):
    original = WorkerCore._snapshot_durable

    def snapshot_durable(self, event):
        down = self.edges.incoming.get(TIE_DOWN)
        original(self, event)
        if down is not None:
            down.durable = min(event.step, down.expected)

    monkeypatch.setitem(worker._ANY_STATE, SnapshotDurable, snapshot_durable)


def a_snapshot_counts_before_it_is_durable(monkeypatch):
    original = WorkerCore._pass_boundary

    def take_due_snapshot(self, step):
        before = self.snapshots.pending
        may_go_on = original(self, step)
        if (taken := self.snapshots.pending) != before:
            for stream, incoming in self.edges.incoming.items():
                incoming.cover(self.plan.consumed_before(stream, taken))
                self._do(self.edges.ack(stream))
        return may_go_on

    monkeypatch.setattr(WorkerCore, "_pass_boundary", take_due_snapshot)


def a_snapshot_is_taken_ahead_behind_the_next_step(monkeypatch):
    """One that is asked for when that is issued then holds what the step has done."""
    original = WorkerCore._issue_ahead

    def look_ahead(self):
        following = self.step + 1
        is_behind = self._issued.has(Phase.FORWARD, following)
        if self.plan.free is None and is_behind and following < self.end:
            self._pass_boundary(following)
        return original(self)

    for state in (State.UPDATE, State.APPLY):
        monkeypatch.setitem(worker._ADVANCE, state, look_ahead)


def a_duplicate_is_taken_for_the_next_message(monkeypatch):
    original = Edges.take_data

    def take_data(self, message):
        expected = self.incoming[message.stream].expected
        return original(self, replace(message, step=max(message.step, expected)))

    monkeypatch.setattr(Edges, "take_data", take_data)


def a_dead_generation_is_not_fenced_off(monkeypatch):
    monkeypatch.setattr(
        Edges, "is_current", lambda self, side, message: message.to == self._generation
    )


def the_addressee_is_not_checked(monkeypatch):
    original = Edges.is_current
    monkeypatch.setattr(
        Edges,
        "is_current",
        lambda self, side, message: original(self, side, replace(message, to=self._generation)),
    )


def a_worker_ends_while_it_is_needed(monkeypatch):
    original = WorkerCore.handle
    monkeypatch.setattr(Edges, "are_covered", lambda self, end: True)
    # What has ended hears and says nothing.
    monkeypatch.setattr(
        WorkerCore,
        "handle",
        lambda self, event: [] if self.state is State.DONE else original(self, event),
    )


def a_new_generation_gets_nothing_resent(monkeypatch):
    monkeypatch.setattr(Outgoing, "rewind", lambda self, wanted: None)


BROKEN = [
    all_streams_of_an_edge_share_one_credit,
    credit_for_one_stream_counts_for_all,
    credit_is_not_returned_after_a_rewind,
    a_tick_repeats_nothing_but_hello,
    silence_asks_for_nothing,
    no_snapshot_is_taken_for_room,
    no_snapshot_while_waiting,
    messages_are_forgotten_when_they_are_released,
    downward_ties_are_forgotten_without_the_lag,
    a_snapshot_counts_before_it_is_durable,
    a_snapshot_is_taken_ahead_behind_the_next_step,
    a_duplicate_is_taken_for_the_next_message,
    a_dead_generation_is_not_fenced_off,
    the_addressee_is_not_checked,
    a_worker_ends_while_it_is_needed,
    a_new_generation_gets_nothing_resent,
]


def run_all() -> None:
    for seed in SEEDS:
        run_plan(seed)


def test_whole_core_bears_every_plan():
    run_all()


@pytest.mark.parametrize("break_it", BROKEN)
def test_some_plan_fails_without_the_rule(break_it, monkeypatch):
    break_it(monkeypatch)
    with pytest.raises(PlanFailed) as caught:
        run_all()
    assert isinstance(caught.value.__cause__, (Stuck, ProtocolError, AssertionError))


def test_downward_window_below_the_lag_and_one_stops_all(monkeypatch):
    """Up to lag 5 the upward windows' slack hides it, so the plans' lags are raised here."""

    def long_lag(seed):
        case, faults = random_plan(seed)
        return replace(case, lag=8, tied=True, num_steps=25), faults

    monkeypatch.setattr(simulated_faults, "random_plan", long_lag)
    run_plan(4)
    monkeypatch.setattr(WorkerPlan, "__post_init__", lambda self: None)  # it refuses such a window
    window = Case.window
    monkeypatch.setattr(Case, "window", lambda self, stream: window(replace(self, lag=0), stream))
    with pytest.raises(PlanFailed) as caught:
        run_plan(4)
    assert isinstance(caught.value.__cause__, Stuck)
