"""What a worker does next: a state machine from events to actions.

    LINKING -> WAIT_CREDIT -> WAIT_INPUT -> FORWARD -> UPDATE -> WAIT_TIE -> APPLY -+
                   ^                                                                |
                   +---------------- (SNAPSHOT) <-----------------------------------+
                                                      after the last step: DRAINING -> DONE

Owns the order of a worker's work and nothing else: it has no clock, thread, socket or tensor.
What must hold, by rule (the property tests check each):

* every step runs FORWARD, UPDATE, APPLY once, in order, on message `step` of each stream
  (a downward tie on `step - lag`);
* an activation is released when its UPDATE is done, ties when their APPLY is done;
* a step starts only when everything made before it has been sent, so that at most one message
  a stream waits for credit;
* the next expected message and all credit are cumulative and repeated on every tick.
"""

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType

from runtime.core.messages import (
    Acknowledge,
    Acknowledged,
    Action,
    Arrived,
    Compute,
    Computed,
    Event,
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
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.streams import Incoming, Outgoing, ProtocolError

HISTORY_LENGTH = 50
TIES = (Stream.TIE_UP, Stream.TIE_DOWN)


class State(Enum):
    """What a worker is doing; `value` is the word shown to people."""

    LINKING = "linking"
    WAIT_CREDIT = "wait_credit"
    WAIT_INPUT = "wait_input"
    FORWARD = "forward"
    UPDATE = "update"
    WAIT_TIE = "wait_tie"
    APPLY = "apply"
    SNAPSHOT = "snapshot"
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
        kept: Mapping[Stream, Mapping[int, bool]] = MappingProxyType({}),
    ) -> None:
        """`kept`: for each outgoing stream, the messages below `start_step` that outlived the
        generation before, and whether each is absent."""
        self.plan = plan
        self.generation = generation
        self.state = State.LINKING
        self.step = start_step
        self.incoming = {
            stream: Incoming(window, plan.consumed_before(stream, start_step))
            for stream, window in plan.incoming.items()
        }
        self.outgoing = {
            stream: Outgoing(
                window, min(start_step, plan.num_messages(stream)), kept.get(stream, {})
            )
            for stream, window in plan.outgoing.items()
        }
        self.peers: dict[Side, int | None] = dict.fromkeys(
            side for side in Side if side in plan.sides()
        )
        self.num_duplicates = 0
        self.num_fenced = 0
        self.num_replayed = 0
        self._snapshot_wanted = False
        self._actions: list[Action] = []
        self._history: deque[str] = deque(maxlen=HISTORY_LENGTH)

    def start(self) -> list[Action]:
        """The first actions; call once."""
        for side in self.peers:
            self._say_hello(side)
        self._advance()
        return self._take_actions()

    def handle(self, event: Event) -> list[Action]:
        """Take one event, return what to do. Raises IllegalEvent or ProtocolError."""
        handler = _HANDLERS.get((self.state, type(event))) or _ANY_STATE.get(type(event))
        if handler is None or not _fits(self.state, self.step, event):
            raise IllegalEvent(f"{event} in state {self.state.name}\n{self.describe()}")
        self._history.append(f"step {self.step} {self.state.name}: {event}")
        handler(self, event)
        self._advance()
        return self._take_actions()

    def describe(self) -> str:
        """The recent history, for the errors of those who drive this core."""
        return "\n".join(["latest events, newest last:", *self._history])

    # Handlers of events -----------------------------------------------------------------------

    def _linked(self, event: Linked) -> None:
        known = self.peers.get(event.side)
        if known is not None and event.generation < known:
            self.num_fenced += 1
            return
        if known is None or event.generation > known:
            self.peers[event.side] = event.generation
            self._rewind(event)
            self._say_hello(event.side)

    def _rewind(self, event: Linked) -> None:
        for stream, outgoing in self.outgoing.items():
            if stream.target is event.side:
                before = outgoing.sent
                outgoing.rewind(event.wants.get(stream, 0))
                self.num_replayed += max(0, before - outgoing.sent)

    def _arrived(self, event: Arrived) -> None:
        incoming = self.incoming[event.stream]
        if event.generation != self.peers[event.stream.source]:
            self.num_fenced += 1
        elif incoming.is_gap(event.step):
            self._acknowledge(event.stream, resend=True)
        elif incoming.accept(event.step, checksum=event.checksum, absent=event.absent):
            self._do(Keep(stream=event.stream, step=event.step))
        else:
            self.num_duplicates += 1

    def _rejected(self, event: Rejected) -> None:
        self._acknowledge(event.stream, resend=True)

    def _acknowledged(self, event: Acknowledged) -> None:
        outgoing = self.outgoing[event.stream]
        if event.generation != self.peers[event.stream.target]:
            self.num_fenced += 1
            return
        before = outgoing.sent
        forgettable = outgoing.acknowledge(
            expected=event.expected,
            released=event.released,
            durable=event.durable,
            resend=event.resend,
        )
        self.num_replayed += max(0, before - outgoing.sent)
        if forgettable:
            self._do(Trim(stream=event.stream, step=outgoing.durable))

    def _ticked(self, event: Tick) -> None:
        del event
        for side, generation in self.peers.items():
            acknowledges = any(stream.source is side for stream in self.incoming)
            if generation is None or not acknowledges:
                self._say_hello(side)  # also as a sign of life, where there is no other
        for stream, incoming in self.incoming.items():
            self._acknowledge(stream, resend=incoming.has_been_quiet_for_long())

    def _snapshot_asked(self, event: SnapshotWanted) -> None:
        del event
        self._snapshot_wanted = True

    def _forward_done(self, event: Computed) -> None:
        self._make(Stream.ACTIVATION, absent=event.absent)
        self._compute(State.UPDATE, Compute(phase=Phase.UPDATE, step=self.step))

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
        finished = self.step == self.plan.num_steps
        every = self.plan.snapshot_every
        if every and (finished or self.step % every == 0):
            self._snapshot_wanted = True
        self._enter(State.DRAINING if finished else State.WAIT_CREDIT)

    def _snapshot_done(self, event: SnapshotTaken) -> None:
        for stream, incoming in self.incoming.items():
            incoming.durable = self.plan.consumed_before(stream, event.step)
            self._acknowledge(stream)
        finished = self.step == self.plan.num_steps
        self._enter(State.DRAINING if finished else State.WAIT_CREDIT)

    # What follows without an event ------------------------------------------------------------

    def _advance(self) -> None:
        """Go on as far as what is here allows, then send what credit allows."""
        self._send_what_credit_allows()
        while (rule := _ADVANCE.get(self.state)) is not None and rule(self):
            self._send_what_credit_allows()

    def _link(self) -> bool:
        if None in self.peers.values():
            return False
        return self._enter(
            State.DRAINING if self.step == self.plan.num_steps else State.WAIT_CREDIT
        )

    def _begin_step(self) -> bool:
        if self._snapshot_wanted:
            return self._begin_snapshot()
        if any(outgoing.sent < outgoing.made for outgoing in self.outgoing.values()):
            return False
        return self._enter(State.WAIT_INPUT)

    def _begin_forward(self) -> bool:
        if self._snapshot_wanted:
            return self._begin_snapshot()
        if not self._has_arrived(Stream.ACTIVATION):
            return False
        return self._compute(State.FORWARD, Compute(phase=Phase.FORWARD, step=self.step))

    def _begin_apply(self) -> bool:
        if not all(self._has_arrived(tie) for tie in TIES):
            return False
        action = Compute(
            phase=Phase.APPLY,
            step=self.step,
            from_below=self._usable(Stream.TIE_UP),
            from_above=self._usable(Stream.TIE_DOWN),
        )
        return self._compute(State.APPLY, action)

    def _begin_snapshot(self) -> bool:
        self._snapshot_wanted = False
        self._do(Snapshot(step=self.step))
        return self._enter(State.SNAPSHOT)

    def _drain(self) -> bool:
        if self._snapshot_wanted:
            return self._begin_snapshot()
        if any(outgoing.durable < outgoing.made for outgoing in self.outgoing.values()):
            return False
        self._do(Finish())
        return self._enter(State.DONE)

    # Small steps ------------------------------------------------------------------------------

    def _enter(self, state: State) -> bool:
        """The one place where the state changes."""
        self.state = state
        return True

    def _compute(self, state: State, action: Compute) -> bool:
        self._do(action)
        return self._enter(state)

    def _has_arrived(self, stream: Stream) -> bool:
        due = self.plan.due(stream, self.step)
        return due is None or due < self.incoming[stream].expected

    def _usable(self, stream: Stream) -> int | None:
        due = self.plan.due(stream, self.step)
        return None if due is None or due in self.incoming[stream].absent else due

    def _make(self, stream: Stream, *, absent: bool) -> None:
        if stream in self.outgoing and self.step < self.plan.num_messages(stream):
            self.outgoing[stream].make(self.step, absent=absent)

    def _release(self, stream: Stream) -> None:
        due = self.plan.due(stream, self.step)
        if due is None:
            return
        incoming = self.incoming[stream]
        incoming.release(due)
        if not self.plan.snapshot_every:
            incoming.durable = incoming.released
        self._do(Release(stream=stream, step=due))
        self._acknowledge(stream)

    def _acknowledge(self, stream: Stream, *, resend: bool = False) -> None:
        incoming = self.incoming[stream]
        self._do(
            Acknowledge(
                stream=stream,
                expected=incoming.expected,
                released=incoming.released,
                durable=incoming.durable,
                resend=resend,
            )
        )

    def _say_hello(self, side: Side) -> None:
        wants = {
            stream: incoming.expected
            for stream, incoming in self.incoming.items()
            if stream.source is side
        }
        self._do(Hello(side=side, generation=self.generation, wants=wants))

    def _send_what_credit_allows(self) -> None:
        for stream, outgoing in self.outgoing.items():
            if self.peers[stream.target] is not None:
                for step in outgoing.take_sendable():
                    self._do(Send(stream=stream, step=step, absent=outgoing.is_absent(step)))

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _take_actions(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions


def _fits(state: State, step: int, event: Event) -> bool:
    """Whether a finished computation is the one that was under way."""
    if isinstance(event, Computed):
        return event.phase.value == state.value and event.step == step
    return not isinstance(event, SnapshotTaken) or event.step == step


_HANDLERS: dict[tuple[State, type], Callable[..., None]] = {
    (State.FORWARD, Computed): WorkerCore._forward_done,
    (State.UPDATE, Computed): WorkerCore._update_done,
    (State.APPLY, Computed): WorkerCore._apply_done,
    (State.SNAPSHOT, SnapshotTaken): WorkerCore._snapshot_done,
}

_ANY_STATE: dict[type, Callable[..., None]] = {
    Linked: WorkerCore._linked,
    Arrived: WorkerCore._arrived,
    Rejected: WorkerCore._rejected,
    Acknowledged: WorkerCore._acknowledged,
    SnapshotWanted: WorkerCore._snapshot_asked,
    Tick: WorkerCore._ticked,
}

_ADVANCE: dict[State, Callable[[WorkerCore], bool]] = {
    State.LINKING: WorkerCore._link,
    State.WAIT_CREDIT: WorkerCore._begin_step,
    State.WAIT_INPUT: WorkerCore._begin_forward,
    State.WAIT_TIE: WorkerCore._begin_apply,
    State.DRAINING: WorkerCore._drain,
}

__all__ = ["IllegalEvent", "ProtocolError", "State", "WorkerCore"]
