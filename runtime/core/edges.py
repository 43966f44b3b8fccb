"""A worker's edges: its streams, the neighbours at their other ends, and what is said to them.

Owns which message counts (the generations of both ends), and the wording of all that repeats
itself. Knows nothing of the order of a step.
"""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from runtime.core.free_ties import FreeIncoming, FreeOutgoing
from runtime.core.messages import (
    Ack,
    Action,
    Data,
    Hello,
    Message,
    Release,
    Send,
    SnapshotRequest,
    Stop,
    Store,
    Trim,
)
from runtime.core.peers import Peer
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.streams import Incoming, Outgoing
from runtime.core.tie_stats import TieStats

Retained = Mapping[Stream, Mapping[int, bool]]
NOTHING_RETAINED: Retained = MappingProxyType({})


class Edges:
    """Both edges of one worker in one generation."""

    def __init__(
        self, plan: WorkerPlan, *, generation: int, start_step: int, retained: Retained
    ) -> None:
        self._plan = plan
        self._generation = generation
        self.incoming = {stream: _incoming(plan, stream, start_step) for stream in plan.incoming}
        self.outgoing = {
            stream: _outgoing(plan, stream, start_step, retained.get(stream, {}))
            for stream in plan.outgoing
        }
        self.peers = {side: Peer() for side in Side if side in plan.sides()}
        self._acked: set[Stream] = set()  # since the last tick
        self._heard: set[Side] = set()  # likewise
        self.num_fenced = 0
        self.num_resent = 0
        self.num_duplicates = 0

    # What is heard ----------------------------------------------------------------------------

    def flows(self, side: Side, message: Message) -> bool:
        """Whether the neighbour on a side can have said that."""
        match message:
            case Hello():
                return side in self.peers
            case Stop():
                return side is Side.BELOW and side in self.peers
            case Data(stream=stream) | SnapshotRequest(stream=stream):
                return stream in self.incoming and stream.source is side
            case Ack(stream=stream):
                return stream in self.outgoing and stream.target is side

    def hear(self, side: Side) -> None:
        """Note that a neighbour has said something, so that nothing it said before is under way."""
        self._heard.add(side)

    def is_current(self, side: Side, message: Data | Ack | SnapshotRequest | Stop) -> bool:
        """Whether a message is between the two generations of now; counts it if not."""
        current = (message.generation, message.to) == (
            self.peers[side].generation,
            self._generation,
        )
        self.num_fenced += not current
        return current

    def take_hello(self, side: Side, hello: Hello) -> Iterator[Action]:
        """Take a hello, and answer one that asks. If it completes the handshake, it says from where
        on to send."""
        peer = self.peers[side]
        if peer.fences(hello.generation):
            self.num_fenced += 1
            return
        if peer.hear(hello, ours=self._generation):
            for stream, outgoing in self.outgoing.items():
                if stream.target is side:
                    before = outgoing.sent
                    outgoing.rewind(hello.wants.get(stream, 0))
                    self.num_resent += max(0, before - outgoing.sent)
        if hello.asks:
            yield self.hello(side)

    @property
    def are_linked(self) -> bool:
        return all(peer.is_linked for peer in self.peers.values())

    def take_data(self, message: Data) -> Iterator[Action]:
        """Take the next message; a free tie is released and covered at once."""
        stream, incoming = message.stream, self.incoming[message.stream]
        if incoming.is_gap(message.step):
            yield self.ack(stream, resend=True)
        elif incoming.accept(message.step, checksum=message.checksum, absent=message.absent):
            is_free = self._plan.is_free(stream)
            if not (is_free and message.absent):
                yield Store(stream=stream, step=message.step)
                if is_free:
                    yield Release(stream=stream, step=message.step)
            if is_free:
                yield self.ack(stream)
        else:
            self.num_duplicates += 1

    def take_ack(self, ack: Ack) -> Iterator[Action]:
        """Take a receiver's acknowledgement, and say what need not be retained any more."""
        outgoing = self.outgoing[ack.stream]
        before = outgoing.sent
        forgettable = outgoing.acknowledge(
            expected=ack.expected,
            released=ack.released,
            durable=ack.durable,
            resend=ack.resend,
        )
        self.num_resent += max(0, before - outgoing.sent)
        if forgettable:
            yield Trim(stream=ack.stream, step=outgoing.needed_from)

    def ask_again(self, stream: Stream) -> Iterator[Action]:
        """A message of the stream was thrown away: ask for it, if there is someone to ask."""
        if self.peers[stream.source].generation is not None:
            yield self.ack(stream, resend=True)

    def helps(self, request: SnapshotRequest, *, pending: int | None) -> bool:
        """Whether a requested snapshot would help: what it is to cover is used up, and neither
        covered nor going to be by the one before step `pending`."""
        released = self.incoming[request.stream].released
        return self._covered(request.stream, pending) < request.durable <= released

    def _covered(self, stream: Stream, pending: int | None) -> int:
        """Below which messages all are covered, by durable snapshots and the one before step
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

    def use(self, tie: Stream, step: int, tie_stats: TieStats) -> int | None:
        """The message of a tie that the step uses, unless there is none or it is absent.

        Of a free tie, the newest of those that it uses, whose staleness is noted.
        """
        incoming = self.incoming.get(tie)
        if not isinstance(incoming, FreeIncoming):
            due = self._plan.due(tie, step)
            return None if due is None or due in self.incoming[tie].absent else due
        used, num_stale = incoming.take(step)
        tie_stats.stale += num_stale
        for message in used:
            tie_stats.note(tie, step - message)
        return used[-1] if used else None

    def may_begin_step(self, unmade: Collection[Stream] = ()) -> bool:
        """Whether all that was made is sent, and there is room to retain what the step will make.

        `unmade`: of these one more will be made before it; that has to be sent, too.
        """
        return all(
            not out.waits
            and out.has_room_behind(stream in unmade)
            and (stream not in unmade or self._may_send(stream))
            for stream, out in self.outgoing.items()
        )

    def _may_send(self, stream: Stream) -> bool:
        """Whether the next message of a stream could be sent now."""
        return self.peers[stream.target].is_linked and self.outgoing[stream].has_credit

    def outruns_room(self, step: int, *, pending: int | None) -> bool:
        """Whether a sender can retain what this step needs only after a snapshot that covers more
        than the durable ones and the pending one do. Then that is to be taken first: a worker that
        waits within a step takes none."""
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
        free ties have come: their sender waits for that acknowledgement."""
        free = [i for i in self.incoming.values() if isinstance(i, FreeIncoming)]
        return all(incoming.expected >= end for incoming in free) and all(
            outgoing.durable >= self._plan.consumed_before(stream, end)
            for stream, outgoing in self.outgoing.items()
        )

    # What is said -----------------------------------------------------------------------------

    def hello(self, side: Side) -> Send:
        peer = self.peers[side]
        hello = Hello(
            generation=self._generation,
            to=peer.generation,
            asks=not peer.is_linked,
            wants={s: i.expected for s, i in self.incoming.items() if s.source is side},
        )
        return Send(side=side, message=hello)

    def ack(self, stream: Stream, *, resend: bool = False) -> Send:
        incoming, side = self.incoming[stream], stream.source
        self._acked.add(stream)
        ack = Ack(
            stream=stream,
            generation=self._generation,
            to=self._generation_on(side),
            expected=incoming.expected,
            released=incoming.released,
            durable=incoming.durable,
            resend=resend,
        )
        return Send(side=side, message=ack)

    def ask_for_room(self, stream: Stream) -> Iterator[Action]:
        """Request a snapshot if there is no room to retain more of a stream's messages."""
        wanted, side = self.outgoing[stream].wanted_durable, stream.target
        if wanted is not None and self.peers[side].is_linked:
            request = SnapshotRequest(
                stream=stream,
                generation=self._generation,
                to=self._generation_on(side),
                durable=wanted,
            )
            yield Send(side=side, message=request)

    def tell_stop(self, stop_at: int | None) -> Iterator[Action]:
        above = self.peers.get(Side.ABOVE)
        if stop_at is not None and above is not None and above.is_linked:
            to = self._generation_on(Side.ABOVE)
            stop = Stop(generation=self._generation, to=to, step=stop_at)
            yield Send(side=Side.ABOVE, message=stop)

    def repeat(self) -> Iterator[Action]:
        """On a tick: all that a lost message would have said, unless it has been said since the
        last one; if that is lost, the next tick tells.

        A tick counts as quiet on a stream only if its sender has been heard: messages come in
        order, so what is missing then is lost. Behind a long message nobody is heard.
        """
        for side, peer in self.peers.items():
            acknowledges = any(stream.source is side for stream in self.incoming)
            if not peer.is_linked or not acknowledges:
                yield self.hello(side)  # also to be heard at all, if there is no other
        for stream, incoming in self.incoming.items():
            if self.peers[stream.source].generation is not None:
                is_heard = stream.source in self._heard
                asks = incoming.count_quiet_tick() if is_heard else False
                if asks or stream not in self._acked:
                    yield self.ack(stream, resend=asks)
        self._acked.clear()
        self._heard.clear()
        for stream in self.outgoing:
            yield from self.ask_for_room(stream)

    def send_what_credit_allows(self) -> Iterator[Action]:
        for stream, outgoing in self.outgoing.items():
            side = stream.target
            if outgoing.waits and self.peers[side].is_linked:
                for step in outgoing.take_sendable():
                    data = Data(
                        stream=stream,
                        step=step,
                        generation=self._generation,
                        to=self._generation_on(side),
                        absent=outgoing.is_absent(step),
                    )
                    yield Send(side=side, message=data)

    def _generation_on(self, side: Side) -> int:
        """The neighbour's generation, which has said hello."""
        generation = self.peers[side].generation
        assert generation is not None, f"the worker {side.value} has not said hello"
        return generation


def _incoming(plan: WorkerPlan, stream: Stream, start_step: int) -> Incoming:
    window = plan.incoming[stream]
    if plan.free is not None and plan.is_free(stream):
        return FreeIncoming(window, plan.free)
    start = plan.consumed_before(stream, start_step)
    return Incoming(window, start, compares=plan.free is None)


def _outgoing(
    plan: WorkerPlan, stream: Stream, start_step: int, retained: Mapping[int, bool]
) -> Outgoing:
    window, limit = plan.outgoing[stream], plan.num_messages(stream)
    if plan.is_free(stream):
        return FreeOutgoing(window, start_step, retained, limit=limit)
    return Outgoing(window, start_step, retained, limit=limit)
