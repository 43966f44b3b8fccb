"""A worker's edges: its streams, the neighbours at their other ends, and what is said to them.

Owns which message counts (the lives of both ends), and the wording of all that repeats itself.
Knows nothing of the order of a step.
"""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from runtime.core.free_ties import FreeIncoming, FreeOutgoing
from runtime.core.messages import (
    Acknowledge,
    Acknowledged,
    Action,
    Arrived,
    AskSnapshot,
    Hello,
    Keep,
    Linked,
    Rejected,
    Release,
    Send,
    SnapshotWanted,
    StopTold,
    TellStop,
    Trim,
)
from runtime.core.peers import Peer
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.streams import Incoming, Outgoing
from runtime.core.tie_stats import Account

Kept = Mapping[Stream, Mapping[int, bool]]
NOTHING_KEPT: Kept = MappingProxyType({})


class Edges:
    """Both edges of one worker in one generation."""

    def __init__(self, plan: WorkerPlan, *, generation: int, start_step: int, kept: Kept) -> None:
        self._plan = plan
        self._generation = generation
        self.incoming = {stream: _incoming(plan, stream, start_step) for stream in plan.incoming}
        self.outgoing = {
            stream: _outgoing(plan, stream, start_step, kept.get(stream, {}))
            for stream in plan.outgoing
        }
        self.peers = {side: Peer() for side in Side if side in plan.sides()}
        self._said: set[Stream] = set()  # what was acknowledged since the last tick
        self.num_fenced = 0
        self.num_replayed = 0
        self.num_duplicates = 0

    # What is heard ----------------------------------------------------------------------------

    def is_current(self, message: Arrived | Acknowledged | SnapshotWanted | StopTold) -> bool:
        """Whether a message is between the two lives that are here now; counts it if not."""
        match message:
            case Acknowledged(stream=stream):
                side = stream.target
            case Arrived(stream=stream) | SnapshotWanted(stream=stream):
                side = stream.source
            case StopTold():
                side = Side.BELOW
        here = (self.peers[side].generation, self._generation)
        current = here == (message.generation, message.to)
        self.num_fenced += not current
        return current

    def hear(self, hello: Linked) -> None:
        """Take a hello; one that completes the handshake says from where to send."""
        peer = self.peers[hello.side]
        if peer.fences(hello.generation):
            self.num_fenced += 1
        elif peer.hear(hello, ours=self._generation):
            for stream, outgoing in self.outgoing.items():
                if stream.target is hello.side:
                    before = outgoing.sent
                    outgoing.rewind(hello.wants.get(stream, 0))
                    self.num_replayed += max(0, before - outgoing.sent)

    @property
    def are_linked(self) -> bool:
        return all(peer.is_linked for peer in self.peers.values())

    def take(self, event: Arrived | Rejected | Acknowledged) -> Iterator[Action]:
        """Take what a neighbour sent, if it is between the lives of now; say what follows."""
        if isinstance(event, Rejected):
            if self.peers[event.stream.source].generation is not None:
                yield self.acknowledge(event.stream, resend=True)
        elif not self.is_current(event):
            return
        elif isinstance(event, Arrived):
            yield from self._take_message(event)
        else:
            yield from self._take_word(event)

    def _take_message(self, message: Arrived) -> Iterator[Action]:
        """Take the next message; what is free is released and covered at once."""
        stream, incoming = message.stream, self.incoming[message.stream]
        if incoming.is_gap(message.step):
            yield self.acknowledge(stream, resend=True)
        elif incoming.accept(message.step, checksum=message.checksum, absent=message.absent):
            is_free = self._plan.is_free(stream)
            if not (is_free and message.absent):
                yield Keep(stream=stream, step=message.step)
                if is_free:
                    yield Release(stream=stream, step=message.step)
            if is_free:
                yield self.acknowledge(stream)
        else:
            self.num_duplicates += 1

    def _take_word(self, word: Acknowledged) -> Iterator[Trim]:
        """Take a receiver's word, and say what need not be kept any more."""
        outgoing = self.outgoing[word.stream]
        before = outgoing.sent
        forgettable = outgoing.acknowledge(
            expected=word.expected,
            released=word.released,
            durable=word.durable,
            resend=word.resend,
        )
        self.num_replayed += max(0, before - outgoing.sent)
        if forgettable:
            yield Trim(stream=word.stream, step=outgoing.needed_from)

    def needs(self, asked: SnapshotWanted, *, pending: int | None) -> bool:
        """Whether a snapshot that was asked for helps: what it is to cover is used up, and neither
        covered nor going to be by the one before step `pending`."""
        released = self.incoming[asked.stream].released
        helps = self._covered(asked.stream, pending) < asked.durable <= released
        return self.is_current(asked) and helps

    def _covered(self, stream: Stream, pending: int | None) -> int:
        """Below which messages all are covered, by what is safe and the snapshot before step
        `pending`."""
        soon = 0 if pending is None else self._plan.consumed_before(stream, pending)
        return max(self.incoming[stream].durable, soon)

    # What is here -----------------------------------------------------------------------------

    def has_arrived(self, stream: Stream, step: int) -> bool:
        """Whether what the step needs of a stream is here."""
        incoming = self.incoming.get(stream)
        if isinstance(incoming, FreeIncoming):
            return incoming.is_fresh(step)
        due = self._plan.due(stream, step)
        return due is None or due < self.incoming[stream].expected

    def use(self, tie: Stream, step: int, account: Account) -> int | None:
        """The message of a tie that the step uses, unless there is none or it is absent.

        Of a free tie, the newest of those that it uses, whose staleness is noted.
        """
        incoming = self.incoming.get(tie)
        if not isinstance(incoming, FreeIncoming):
            return self.usable(tie, step)
        used, num_stale = incoming.take(step)
        account.stale += num_stale
        for message in used:
            account.note(tie, step - message)
        return used[-1] if used else None

    def usable(self, stream: Stream, step: int) -> int | None:
        """The message of a stream that the step uses, unless there is none or it is absent."""
        due = self._plan.due(stream, step)
        return None if due is None or due in self.incoming[stream].absent else due

    def may_begin_step(self, unmade: Collection[Stream] = ()) -> bool:
        """Whether all that was made is sent, and there is room to keep what the step will make.

        `unmade`: of these one more will be made before it; this has to find its way, too.
        """
        return all(
            not out.waits
            and out.has_room_behind(stream in unmade)
            and (stream not in unmade or self._lets_go(stream))
            for stream, out in self.outgoing.items()
        )

    def _lets_go(self, stream: Stream) -> bool:
        """Whether the next message of a stream could be sent now."""
        return self.peers[stream.target].is_linked and self.outgoing[stream].has_credit

    def outruns_room(self, step: int, *, pending: int | None) -> bool:
        """Whether a sender has no room for what the step needs, before a snapshot covers more than
        those do that are safe, and the one before step `pending`. Then one must be taken first: a
        worker that waits within a step takes none."""
        if not self._plan.snapshot_every:
            return False
        for stream, incoming in self.incoming.items():
            due, room = self._plan.due(stream, step), incoming.window.max_retained
            if due is None or room is None:
                continue
            if due - self._covered(stream, pending) >= room:
                return True
        return False

    def are_covered(self, end: int) -> bool:
        """Whether the receivers' snapshots cover all that they need before step `end`, and all
        that comes here for free has come: its sender waits for that word."""
        heard = [i for i in self.incoming.values() if isinstance(i, FreeIncoming)]
        return all(incoming.expected >= end for incoming in heard) and all(
            outgoing.durable >= self._plan.consumed_before(stream, end)
            for stream, outgoing in self.outgoing.items()
        )

    # What is said -----------------------------------------------------------------------------

    def hello(self, side: Side) -> Hello:
        peer = self.peers[side]
        return Hello(
            side=side,
            generation=self._generation,
            heard=peer.generation,
            asks=not peer.is_linked,
            wants={s: i.expected for s, i in self.incoming.items() if s.source is side},
        )

    def acknowledge(self, stream: Stream, *, resend: bool = False) -> Acknowledge:
        incoming = self.incoming[stream]
        self._said.add(stream)
        return Acknowledge(
            stream=stream,
            expected=incoming.expected,
            released=incoming.released,
            durable=incoming.durable,
            resend=resend,
        )

    def ask_for_room(self, stream: Stream) -> Iterator[Action]:
        """Ask for a snapshot where room to keep a stream's messages runs short."""
        wanted = self.outgoing[stream].wanted_durable
        if wanted is not None and self.peers[stream.target].is_linked:
            yield AskSnapshot(stream=stream, durable=wanted)

    def tell_stop(self, stop_at: int | None) -> Iterator[Action]:
        above = self.peers.get(Side.ABOVE)
        if stop_at is not None and above is not None and above.is_linked:
            yield TellStop(step=stop_at)

    def repeat(self) -> Iterator[Action]:
        """On a tick: all that a lost message would have said, unless it has been said since the
        last one; where that is lost, the next tick tells."""
        for side, peer in self.peers.items():
            acknowledges = any(stream.source is side for stream in self.incoming)
            if not peer.is_linked or not acknowledges:
                yield self.hello(side)  # also as a sign of life, where there is no other
        for stream, incoming in self.incoming.items():
            if self.peers[stream.source].generation is not None:
                asks = incoming.has_been_quiet_for_long()
                if asks or stream not in self._said:
                    yield self.acknowledge(stream, resend=asks)
        self._said.clear()
        for stream in self.outgoing:
            yield from self.ask_for_room(stream)

    def send_what_credit_allows(self) -> Iterator[Send]:
        for stream, outgoing in self.outgoing.items():
            if outgoing.waits and self.peers[stream.target].is_linked:
                for step in outgoing.take_sendable():
                    yield Send(stream=stream, step=step, absent=outgoing.is_absent(step))


def _incoming(plan: WorkerPlan, stream: Stream, start_step: int) -> Incoming:
    window = plan.incoming[stream]
    if plan.free is not None and plan.is_free(stream):
        return FreeIncoming(window, plan.free)
    start = plan.consumed_before(stream, start_step)
    return Incoming(window, start, compares=plan.free is None)


def _outgoing(
    plan: WorkerPlan, stream: Stream, start_step: int, kept: Mapping[int, bool]
) -> Outgoing:
    window, limit = plan.outgoing[stream], plan.num_messages(stream)
    if plan.is_free(stream):
        return FreeOutgoing(window, start_step, kept, limit=limit)
    return Outgoing(window, start_step, kept, limit=limit)
