"""What a worker does next: a state machine from events to actions.

    LINKING -> WAIT_CREDIT -> WAIT_INPUT -> FORWARD -> UPDATE -> WAIT_TIE -> APPLY -+
                   ^   |                              ^                             |
                   +---|------------------------------|---------- handed out -------+
                       +-> after the last step, or where the job stops: DRAINING -> DONE

The state is that of the computation that is not known to be done. What will follow it without doubt
is handed out ahead, so that nobody waits: a FORWARD with its UPDATE, and while these run, as soon
as all is here, the APPLY, a due snapshot, and the next FORWARD and UPDATE; done in that order.

Owns the order of a worker's work and nothing else: it has no clock, thread, socket or tensor.
What must hold, by rule (the property tests check each):

* every step runs FORWARD, UPDATE, APPLY once, in order, on message `step` of each stream
  (a downward tie on `step - lag`);
* an activation is released when its UPDATE is done, ties when their APPLY is done;
* a step starts only when everything made before it has been sent (ahead of time: when there is
  credit to send it), so that at most one message a stream waits for credit, and when there is room
  to keep what it will make;
* what is sent is kept until the receiver's snapshot covers it; where room runs short, a snapshot
  is asked for, which can be taken at every step boundary, also while waiting; and no step begins
  that needs what its sender has no room for before a snapshot is taken;
* a snapshot is taken at its boundary and counts when it is safe, some time later; the next one
  waits for that, and so does the end;
* the next expected message, all credit, and the step to stop at are cumulative, and repeated on
  every tick on which they were not just said;
* a message counts only between the two lives that it was sent between.

Where the plan says that ties are free, an APPLY takes those that have arrived, and waits only where
they are staler than the bound.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum

from runtime.core.edges import NOTHING_KEPT, Edges, Kept
from runtime.core.handed_out import HandedOut
from runtime.core.messages import (
    Acknowledged,
    Action,
    Arrived,
    Compute,
    Computed,
    Event,
    Finish,
    Linked,
    Phase,
    Rejected,
    Release,
    SnapshotSafe,
    SnapshotWanted,
    StopTold,
    StopWanted,
    Tick,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.snapshot_schedule import SnapshotSchedule
from runtime.core.streams import ProtocolError
from runtime.core.tie_stats import TIES, Account

HISTORY_LENGTH = 50


class State(Enum):
    """What a worker is doing; `value` is the word shown to people."""

    LINKING = "linking"
    WAIT_CREDIT = "wait_credit"
    WAIT_INPUT = "wait_input"
    FORWARD = "forward"
    UPDATE = "update"
    WAIT_TIE = "wait_tie"
    APPLY = "apply"
    DRAINING = "draining"
    DONE = "done"


class IllegalEvent(Exception):
    """An event that can't happen in this state: a bug. The state is unchanged."""


class WorkerCore:
    """The state machine of one worker in one generation, from `start_step` on."""

    def __init__(
        self,
        plan: WorkerPlan,
        *,
        generation: int = 0,
        start_step: int = 0,
        kept: Kept = NOTHING_KEPT,
        reached: int = 0,
        stop_at: int | None = None,
        account: Account | None = None,
    ) -> None:
        """`kept`: for each outgoing stream, the messages below `start_step` that outlived the
        generation before, and whether each is absent. `reached` is the first step that no
        generation has begun, and `stop_at` where an earlier one knew that the job stops.
        `account` is that of the state which this one begins with."""
        self.plan = plan
        self.generation = generation
        self.state = State.LINKING
        self.step = start_step
        self.reached = max(reached, start_step)
        self.stop_at = stop_at
        self.edges = Edges(plan, generation=generation, start_step=start_step, kept=kept)
        self.account = account or Account()
        self.snapshots = SnapshotSchedule(plan, start_step=start_step)
        self._handed_out = HandedOut(start_step)
        self._actions: list[Action] = []
        self._history: deque[tuple[int, State, Event]] = deque(maxlen=HISTORY_LENGTH)

    @property
    def end(self) -> int:
        """The first step that is not run: after the last one, or where the job stops."""
        last = self.plan.num_steps
        return last if self.stop_at is None else min(last, self.stop_at)

    def start(self) -> list[Action]:
        """The first actions; call once."""
        for side in self.edges.peers:
            self._do(self.edges.hello(side))
        self._advance()
        return self._take_actions()

    def handle(self, event: Event) -> list[Action]:
        """Take one event, return what to do. Raises IllegalEvent or ProtocolError."""
        handler = _HANDLERS.get((self.state, type(event))) or _ANY_STATE.get(type(event))
        if handler is None or not self._fits(event):
            raise IllegalEvent(f"{event} in state {self.state.name}\n{self.describe()}")
        self._history.append((self.step, self.state, event))
        handler(self, event)
        self._advance()
        return self._take_actions()

    def describe(self) -> str:
        """The recent history, for the errors of those who drive this core."""
        lines = [f"step {step} {state.name}: {event}" for step, state, event in self._history]
        return "\n".join(["latest events, newest last:", *lines])

    # Handlers of events -----------------------------------------------------------------------

    def _linked(self, event: Linked) -> None:
        self.edges.hear(event)
        if event.asks and not self.edges.peers[event.side].fences(event.generation):
            self._do(self.edges.hello(event.side))

    def _heard(self, event: Arrived | Rejected | Acknowledged) -> None:
        self._actions.extend(self.edges.take(event))

    def _ticked(self, event: Tick) -> None:
        del event
        self._actions.extend(self.edges.repeat())
        self._actions.extend(self.edges.tell_stop(self.stop_at))

    def _snapshot_asked(self, event: SnapshotWanted) -> None:
        if self.edges.needs(event, pending=self.snapshots.pending):
            self.snapshots.ask()

    def _stop_wanted(self, event: StopWanted) -> None:
        """The lowest worker leads, so the job stops behind the highest step that it has begun."""
        del event
        if Side.BELOW not in self.edges.peers and self.stop_at is None:
            self._stop(self.reached)

    def _stop_told(self, event: StopTold) -> None:
        if self.edges.is_current(event) and self.stop_at is None:
            self._stop(event.step)

    def _stop(self, step: int) -> None:
        assert step >= self.reached, (step, self.reached)
        self.stop_at = step
        self._actions.extend(self.edges.tell_stop(step))

    def _forward_done(self, event: Computed) -> None:
        del event
        self._make(Stream.ACTIVATION, absent=False)
        self._enter(State.UPDATE)

    def _update_done(self, event: Computed) -> None:
        for tie in TIES:
            self._make(tie, absent=event.absent)
        self._release(Stream.ACTIVATION)
        self._enter(State.WAIT_TIE)

    def _apply_done(self, event: Computed) -> None:
        del event
        for tie in TIES:
            self._release(tie)
        self._end_step()

    def _end_step(self) -> None:
        self.step += 1
        is_handed_out = self._handed_out.has(Phase.FORWARD, self.step)
        self._enter(State.FORWARD if is_handed_out else State.WAIT_CREDIT)

    def _snapshot_safe(self, event: SnapshotSafe) -> None:
        self.snapshots.pending = None
        for stream, incoming in self.edges.incoming.items():
            incoming.cover(self.plan.consumed_before(stream, event.step))
            self._acknowledge(stream)

    # What follows without an event ------------------------------------------------------------

    def _advance(self) -> None:
        """Go on as far as what is here allows, then send what credit allows."""
        self._actions.extend(self.edges.send_what_credit_allows())
        while (rule := _ADVANCE.get(self.state)) is not None and rule(self):
            self._actions.extend(self.edges.send_what_credit_allows())

    def _link(self) -> bool:
        return self.edges.are_linked and self._enter(State.WAIT_CREDIT)

    def _begin_step(self) -> bool:
        if not self._take_due_snapshot(self.step):
            return False
        if self.step == self.end:
            return self._enter(State.DRAINING)
        return self.edges.may_begin_step() and self._enter(State.WAIT_INPUT)

    def _begin_forward(self) -> bool:
        if not self._take_due_snapshot(self.step):
            return False
        if self.step == self.end:
            return self._enter(State.DRAINING)
        if not self.edges.has_arrived(Stream.ACTIVATION, self.step):
            return False
        self._hand_out_step(self.step)
        return self._enter(State.FORWARD)

    def _look_ahead(self) -> bool:
        """Hand out what will follow, in its order; the state stays. Free ties are taken late."""
        following = self.step + 1
        if (
            self.plan.free is None
            and self._hand_out_apply()
            and following < self.end
            and not self._handed_out.has(Phase.FORWARD, following)
            and self._take_due_snapshot(following)
            and self.edges.has_arrived(Stream.ACTIVATION, following)
            and self.edges.may_begin_step(unmade=TIES if self.state is State.UPDATE else ())
        ):
            self._hand_out_step(following)
        return False

    def _begin_apply(self) -> bool:
        return self._hand_out_apply() and self._enter(State.APPLY)

    def _take_due_snapshot(self, step: int) -> bool:
        """Take the snapshot due before `step`, unless one is under way; whether to go on."""
        pending = self.snapshots.pending
        is_due = self.snapshots.is_due(step, end=self.end)
        if not is_due and not self.edges.outruns_room(step, pending=pending):
            return True
        if pending is None:
            self._do(self.snapshots.take(step, end=self.end, account=self.account))
        return pending is None

    def _drain(self) -> bool:
        is_safe = self._take_due_snapshot(self.step) and self.snapshots.pending is None
        if not is_safe or not self.edges.are_covered(self.end):
            return False
        self._do(Finish())
        return self._enter(State.DONE)

    # What is handed out -----------------------------------------------------------------------

    def _hand_out_step(self, step: int) -> None:
        """Hand out a step up to where it needs its ties."""
        self.reached = max(self.reached, step + 1)
        self._do(self._handed_out.note(Compute(phase=Phase.FORWARD, step=step)))
        self._do(self._handed_out.note(Compute(phase=Phase.UPDATE, step=step)))

    def _hand_out_apply(self) -> bool:
        """Hand out this step's APPLY where its ties are here; whether it is handed out."""
        if self._handed_out.has(Phase.APPLY, self.step):
            return True
        if not all(self.edges.has_arrived(tie, self.step) for tie in TIES):
            return False
        below = self.edges.use(Stream.TIE_UP, self.step, self.account)
        above = self.edges.use(Stream.TIE_DOWN, self.step, self.account)
        action = Compute(phase=Phase.APPLY, step=self.step, from_below=below, from_above=above)
        self._do(self._handed_out.note(action))
        return True

    # Small steps ------------------------------------------------------------------------------

    def _enter(self, state: State) -> bool:
        """The one place where the state changes."""
        self.state = state
        return True

    def _make(self, stream: Stream, *, absent: bool) -> None:
        if (outgoing := self.edges.outgoing.get(stream)) is None:
            return
        outgoing.make(self.step, absent=absent)
        self._actions.extend(self.edges.ask_for_room(stream))

    def _release(self, stream: Stream) -> None:
        due = self.plan.due(stream, self.step)
        if due is None:
            return
        incoming = self.edges.incoming[stream]
        incoming.release(due)
        if not self.plan.snapshot_every:
            incoming.durable = incoming.released
        self._do(Release(stream=stream, step=due))
        self._acknowledge(stream)

    def _acknowledge(self, stream: Stream, *, resend: bool = False) -> None:
        self._do(self.edges.acknowledge(stream, resend=resend))

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _fits(self, event: Event) -> bool:
        """Whether what is finished was under way."""
        if isinstance(event, Computed):
            is_this = event.phase.value == self.state.value and event.step == self.step
            return is_this and (event.phase is Phase.UPDATE or not event.absent)
        if isinstance(event, SnapshotSafe):
            return event.step == self.snapshots.pending and event.step <= self.step
        return True

    def _take_actions(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions


_HANDLERS: dict[tuple[State, type], Callable[..., None]] = {
    (State.FORWARD, Computed): WorkerCore._forward_done,
    (State.UPDATE, Computed): WorkerCore._update_done,
    (State.APPLY, Computed): WorkerCore._apply_done,
}

_ANY_STATE: dict[type, Callable[..., None]] = {
    Linked: WorkerCore._linked,
    Arrived: WorkerCore._heard,
    Rejected: WorkerCore._heard,
    Acknowledged: WorkerCore._heard,
    SnapshotSafe: WorkerCore._snapshot_safe,
    SnapshotWanted: WorkerCore._snapshot_asked,
    StopWanted: WorkerCore._stop_wanted,
    StopTold: WorkerCore._stop_told,
    Tick: WorkerCore._ticked,
}

_ADVANCE: dict[State, Callable[[WorkerCore], bool]] = {
    State.LINKING: WorkerCore._link,
    State.WAIT_CREDIT: WorkerCore._begin_step,
    State.WAIT_INPUT: WorkerCore._begin_forward,
    State.UPDATE: WorkerCore._look_ahead,
    State.WAIT_TIE: WorkerCore._begin_apply,
    State.APPLY: WorkerCore._look_ahead,
    State.DRAINING: WorkerCore._drain,
}

__all__ = ["IllegalEvent", "ProtocolError", "State", "WorkerCore"]
