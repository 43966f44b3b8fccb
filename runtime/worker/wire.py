"""Between a core's words and a link's messages: what one calls an event, the other a message.

Owns the translation only; payloads and checksums are the driver's and the link's.
"""

from runtime.block import Payload
from runtime.core.messages import (
    Acknowledge,
    Acknowledged,
    Arrived,
    AskSnapshot,
    Event,
    Hello,
    Linked,
    Send,
    SnapshotWanted,
    StopTold,
    TellStop,
)
from runtime.core.plan import Side
from runtime.core.worker import WorkerCore
from runtime.links.message import (
    AckMessage,
    DataMessage,
    HelloMessage,
    Message,
    StopMessage,
    WantMessage,
)

Said = Hello | Send | Acknowledge | AskSnapshot | TellStop


def event_of(side: Side, message: Message) -> Event:
    """What a message from the neighbour on a side is to the core."""
    match message:
        case HelloMessage():
            return Linked(
                side=side,
                generation=message.generation,
                heard=message.heard,
                asks=message.asks,
                wants=message.wants,
            )
        case AckMessage():
            return Acknowledged(
                stream=message.stream,
                generation=message.generation,
                to=message.to,
                expected=message.expected,
                released=message.released,
                durable=message.durable,
                resend=message.resend,
            )
        case DataMessage():
            return Arrived(
                stream=message.stream,
                step=message.step,
                generation=message.generation,
                to=message.to,
                checksum=message.checksum,
                absent=message.absent,
            )
        case WantMessage():
            return SnapshotWanted(
                stream=message.stream,
                generation=message.generation,
                to=message.to,
                durable=message.durable,
            )
        case StopMessage():
            return StopTold(generation=message.generation, to=message.to, step=message.step)


def message_of(said: Said, core: WorkerCore, payload: Payload = ()) -> tuple[Side, Message]:
    """What a core says, as a message, and the side that it goes to."""
    ours = core.generation
    if isinstance(said, Hello):
        return said.side, HelloMessage(
            generation=ours,
            heard=said.heard,
            asks=said.asks,
            wants=dict(said.wants),
            fingerprint=0,
        )
    side = _side(said)
    to = core.edges.peers[side].generation
    assert to is not None, f"{said} before a hello"
    match said:
        case Send(stream=stream, step=step, absent=absent):
            return side, DataMessage(
                stream=stream,
                step=step,
                generation=ours,
                to=to,
                absent=absent,
                checksum=0,
                payload=payload,
            )
        case Acknowledge():
            return side, AckMessage(
                stream=said.stream,
                generation=ours,
                to=to,
                expected=said.expected,
                released=said.released,
                durable=said.durable,
                resend=said.resend,
            )
        case AskSnapshot(stream=stream, durable=durable):
            return side, WantMessage(stream=stream, generation=ours, to=to, durable=durable)
        case TellStop(step=step):
            return side, StopMessage(generation=ours, to=to, step=step)


def _side(said: Send | Acknowledge | AskSnapshot | TellStop) -> Side:
    match said:
        case Acknowledge(stream=stream):
            return stream.source
        case Send(stream=stream) | AskSnapshot(stream=stream):
            return stream.target
        case TellStop():
            return Side.ABOVE
