"""What a worker does next: a state machine from events to actions.

    LINKING -> WAIT_CREDIT -> WAIT_INPUT -> FORWARD -> UPDATE -> WAIT_TIE -> APPLY -+
                   ^   |                              ^                             |
                   +---|------------------------------|---------- issued ahead -----+
                       +-> after the last step, or before the one to stop at: DRAINING -> DONE

The state names the first computation whose end has not been reported. Work that must follow it is
issued ahead, so that nobody waits: a FORWARD with its UPDATE, and while these run, as soon as all
is here, the APPLY, a due snapshot, and the next FORWARD and UPDATE; done in that order.

Owns the order of a worker's work and nothing else: it has no clock, thread, socket or tensor.
What must hold, by rule (the property tests check each):

* every step runs FORWARD, UPDATE, APPLY once, in order, on message `step` of each stream
  (a downward tie on `step - lag`);
* an activation is released when its UPDATE is done, ties when their APPLY is done;
* a step starts only when everything made before it has been sent (issued ahead: when there is
  credit to send it), so that at most one message a stream waits for credit, and when there is room
  to retain what it will make;
* what is sent is retained until the receiver's snapshot covers it; if room runs short, a snapshot
  is requested, which can be taken at every step boundary, also while waiting; and no step begins
  that needs what its sender has no room for before a snapshot is taken;
* a snapshot is taken at its boundary and counts when it is durable, some time later; the next one
  waits for that, and so does the end;
* the next expected message, all credit, and the step to stop at are cumulative, and repeated on
  every tick, unless they were said since the last one;
* a message counts only between the two generations that it was sent between.

If the plan says that ties are free, an APPLY takes those that have arrived, and waits only if they
are staler than the bound.
"""

from collections import deque
from collections.abc import Callable

from runtime.core.edges import NOTHING_RETAINED, Edges, Retained
from runtime.core.issued import Issued
from runtime.core.messages import (
    Ack,
    Action,
    Compute,
    Computed,
    Data,
    Event,
    Finish,
    Hello,
    Message,
    Phase,
    Received,
    Rejected,
    Release,
    SnapshotDurable,
    SnapshotRequest,
    Stop,
    StopWanted,
    Tick,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.snapshot_schedule import SnapshotSchedule
from runtime.core.state import State
from runtime.core.stats import CoreStats
from runtime.core.tie_stats import TIES, TieStats

HISTORY_LENGTH = 50


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
        retained: Retained = NOTHING_RETAINED,
        reached: int = 0,
        stop_at: int | None = None,
        tie_stats: TieStats | None = None,
    ) -> None:
        """`retained`: for each outgoing stream, the messages below `start_step` that outlived the
        generation before, and whether each is absent. `reached` is the first step that no
        generation has begun, and `stop_at` the one before which the job stops, if that is known.
        `tie_stats` are those of the state which this one begins with."""
        self.plan = plan
        self.generation = generation
        self.state = State.LINKING
        self.step = start_step
        self.reached = max(reached, start_step)
        self.stop_at = stop_at
        self.edges = Edges(plan, generation=generation, start_step=start_step, retained=retained)
        self.tie_stats = tie_stats or TieStats()
        self.snapshots = SnapshotSchedule(plan, start_step=start_step)
        self._issued = Issued(start_step)
        self._actions: list[Action] = []
        self._history: deque[tuple[int, State, Event]] = deque(maxlen=HISTORY_LENGTH)

    @property
    def end(self) -> int:
        """The first step that is not run: after the last one, or the one to stop at."""
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

    def stats(self) -> CoreStats:
        """Where this worker is, and what it has counted."""
        activations = self.edges.outgoing.get(Stream.ACTIVATION)
        return CoreStats(
            state=self.state,
            step=self.step,
            reached=self.reached,
            stop_at=self.stop_at,
            end=self.end,
            is_stopping=self.end < self.plan.num_steps,
            pending_snapshot=self.snapshots.pending,
            num_activations_sent=0 if activations is None else activations.sent,
            num_resent=self.edges.num_resent,
            num_duplicates=self.edges.num_duplicates,
            num_fenced=self.edges.num_fenced,
            tie_stats=self.tie_stats,
        )

    # Handlers of messages ---------------------------------------------------------------------

    def _received(self, event: Received) -> None:
        side, message = event.side, event.message
        self.edges.hear(side)
        if isinstance(message, Hello):
            self._actions.extend(self.edges.take_hello(side, message))
        elif self.edges.is_current(side, message):
            _MESSAGES[type(message)](self, message)

    def _data_received(self, message: Data) -> None:
        self._actions.extend(self.edges.take_data(message))

    def _ack_received(self, message: Ack) -> None:
        self._actions.extend(self.edges.take_ack(message))

    def _snapshot_requested(self, message: SnapshotRequest) -> None:
        if self.edges.helps(message, pending=self.snapshots.pending):
            self.snapshots.ask()

    def _stop_received(self, message: Stop) -> None:
        # One before what has begun can't be: the lowest worker stops behind all that it has begun.
        if self.stop_at is None and message.step >= self.reached:
            self._stop(message.step)

    # Handlers of other events -----------------------------------------------------------------

    def _rejected(self, event: Rejected) -> None:
        self._actions.extend(self.edges.ask_again(event.stream))

    def _ticked(self, event: Tick) -> None:
        del event
        self._actions.extend(self.edges.repeat())
        self._actions.extend(self.edges.tell_stop(self.stop_at))

    def _stop_wanted(self, event: StopWanted) -> None:
        """The lowest worker leads, so the job stops behind the highest step that it has begun."""
        del event
        if Side.BELOW not in self.edges.peers and self.stop_at is None:
            self._stop(self.reached)

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
        self.step += 1
        is_issued = self._issued.has(Phase.FORWARD, self.step)
        self._enter(State.FORWARD if is_issued else State.WAIT_CREDIT)

    def _snapshot_durable(self, event: SnapshotDurable) -> None:
        self.snapshots.pending = None
        for stream, incoming in self.edges.incoming.items():
            incoming.cover(self.plan.consumed_before(stream, event.step))
            self._do(self.edges.ack(stream))

    # What follows without an event ------------------------------------------------------------

    def _advance(self) -> None:
        """Go on as far as what is here allows, then send what credit allows."""
        self._actions.extend(self.edges.send_what_credit_allows())
        while (rule := _ADVANCE.get(self.state)) is not None and rule(self):
            self._actions.extend(self.edges.send_what_credit_allows())

    def _link(self) -> bool:
        return self.edges.are_linked and self._enter(State.WAIT_CREDIT)

    def _begin_step(self) -> bool:
        if not self._pass_boundary(self.step):
            return False
        if self.step == self.end:
            return self._enter(State.DRAINING)
        return self.edges.may_begin_step() and self._enter(State.WAIT_INPUT)

    def _begin_forward(self) -> bool:
        if not self._pass_boundary(self.step):
            return False
        if self.step == self.end:
            return self._enter(State.DRAINING)
        if not self.edges.has_arrived(Stream.ACTIVATION, self.step):
            return False
        self._issue_step(self.step)
        return self._enter(State.FORWARD)

    def _issue_ahead(self) -> bool:
        """Issue what will follow, in its order; the state stays. Free ties are taken late."""
        following = self.step + 1
        if (
            self.plan.free is None
            and self._issue_apply()
            and following < self.end
            and not self._issued.has(Phase.FORWARD, following)
            and self._pass_boundary(following)
            and self.edges.has_arrived(Stream.ACTIVATION, following)
            and self.edges.may_begin_step(unmade=TIES if self.state is State.UPDATE else ())
        ):
            self._issue_step(following)
        return False

    def _begin_apply(self) -> bool:
        return self._issue_apply() and self._enter(State.APPLY)

    def _pass_boundary(self, step: int) -> bool:
        """Take the snapshot due before `step`, unless one is under way. False: wait for it."""
        pending = self.snapshots.pending
        is_due = self.snapshots.is_due(step, end=self.end)
        if not is_due and not self.edges.outruns_room(step, pending=pending):
            return True
        if pending is None:
            self._do(self.snapshots.take(step, end=self.end, tie_stats=self.tie_stats))
        return pending is None

    def _drain(self) -> bool:
        is_durable = self._pass_boundary(self.step) and self.snapshots.pending is None
        if not is_durable or not self.edges.are_covered(self.end):
            return False
        self._do(Finish())
        return self._enter(State.DONE)

    # What is issued ---------------------------------------------------------------------------

    def _issue_step(self, step: int) -> None:
        """Issue a step up to where it needs its ties."""
        self.reached = max(self.reached, step + 1)
        self._do(self._issued.note(Compute(phase=Phase.FORWARD, step=step)))
        self._do(self._issued.note(Compute(phase=Phase.UPDATE, step=step)))

    def _issue_apply(self) -> bool:
        """Issue this step's APPLY if its ties are here; whether it is issued."""
        if self._issued.has(Phase.APPLY, self.step):
            return True
        if not all(self.edges.has_arrived(tie, self.step) for tie in TIES):
            return False
        below = self.edges.use(Stream.TIE_UP, self.step, self.tie_stats)
        above = self.edges.use(Stream.TIE_DOWN, self.step, self.tie_stats)
        action = Compute(phase=Phase.APPLY, step=self.step, from_below=below, from_above=above)
        self._do(self._issued.note(action))
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
        self._do(self.edges.ack(stream))

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _fits(self, event: Event) -> bool:
        """Whether a message can come from its side, and what is finished was under way."""
        match event:
            case Received():
                return self.edges.flows(event.side, event.message)
            case Computed():
                is_this = (event.phase.value, event.step) == (self.state.value, self.step)
                return is_this and (event.phase is Phase.UPDATE or not event.absent)
            case SnapshotDurable():
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
    Received: WorkerCore._received,
    Rejected: WorkerCore._rejected,
    SnapshotDurable: WorkerCore._snapshot_durable,
    StopWanted: WorkerCore._stop_wanted,
    Tick: WorkerCore._ticked,
}

_MESSAGES: dict[type[Message], Callable[..., None]] = {
    Data: WorkerCore._data_received,
    Ack: WorkerCore._ack_received,
    SnapshotRequest: WorkerCore._snapshot_requested,
    Stop: WorkerCore._stop_received,
}

_ADVANCE: dict[State, Callable[[WorkerCore], bool]] = {
    State.LINKING: WorkerCore._link,
    State.WAIT_CREDIT: WorkerCore._begin_step,
    State.WAIT_INPUT: WorkerCore._begin_forward,
    State.UPDATE: WorkerCore._issue_ahead,
    State.WAIT_TIE: WorkerCore._begin_apply,
    State.APPLY: WorkerCore._issue_ahead,
    State.DRAINING: WorkerCore._drain,
}
