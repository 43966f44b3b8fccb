"""A link on which messages are lost, damaged, late or doubled, as a plan says.

Owns what each fault of an edge does to the bytes. Everything else passes through unchanged.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from runtime.block import Payload
from runtime.core.messages import Data, Hello, Message
from runtime.core.plan import Stream
from runtime.faults.plan import Fault
from runtime.links.link import Arrival, Damaged, Frame, Link, Pollable

OVERTAKEN_S = 0.5  # a message waits at most that long for one that overtakes it


class FaultyLink:
    """One end of an edge with its faults. `sends` is (this worker, the other)."""

    def __init__(
        self,
        link: Link,
        faults: Sequence[Fault],
        zombies: Sequence[Fault],
        *,
        sends: tuple[int, int],
        claim: Callable[[str], bool],
    ) -> None:
        self._link = link
        self._claim = claim
        # The end that dials cuts the connection; all else is done to what this end sends.
        self._cuts = [f for f in faults if f.kind == "cut"] if sends[0] > sends[1] else []
        self._faults = [f for f in faults if f.edge == sends and f.kind != "cut"]
        self._zombies = [f"{fault} speaks to {sends[1]}" for fault in zombies]
        self._late: deque[tuple[float, list[Frame]]] = deque()  # when to send what, in order
        self._overtaken: Stream | None = None  # the stream whose next message goes first
        self._parted_until_s = 0.0

    @property
    def pollables(self) -> Sequence[Pollable]:
        return self._link.pollables

    @property
    def limit_bytes(self) -> int:
        return self._link.limit_bytes

    def recycle(self, stream: Stream, payload: Payload) -> None:
        self._link.recycle(stream, payload)

    def frames(self, message: Message, payload: Payload = ()) -> list[Frame]:
        return self._link.frames(message, payload)

    def send_frames(self, frames: list[Frame]) -> bool:
        return self._link.send_frames(frames)

    @property
    def unreached(self) -> str | None:
        return self._link.unreached

    def redial(self, address: str | None = None) -> None:
        self._link.redial(address)

    def close(self) -> None:
        self._link.close()

    def send(self, message: Message, payload: Payload = ()) -> bool:
        self._speak_as_zombie(message, payload)
        self._cut_if_due(message)
        if isinstance(message, Data) and (fault := self._due(message)) is not None:
            return self._send_faultily(message, payload, fault)
        if time.monotonic() < self._parted_until_s:
            return True
        if self._late and self._overtaken is None:
            self._late.append((self._late[-1][0], self._link.frames(message, payload)))
            return True
        sent = self._link.send(message, payload)
        if isinstance(message, Data) and message.stream is self._overtaken:
            self._send_late(at_once=True)
        return sent

    def receive(self) -> Arrival | Damaged | None:
        self._send_late()
        found = self._link.receive()
        while found is not None and time.monotonic() < self._parted_until_s:
            found = self._link.receive()
        if isinstance(found, Arrival):
            self._cut_if_due(found.message)
        return found

    def _due(self, message: Data) -> Fault | None:
        for fault in self._faults:
            if fault.step == message.step and self._claim(str(fault)):
                return fault
        return None

    def _send_faultily(self, message: Data, payload: Payload, fault: Fault) -> bool:
        frames = self._link.frames(message, payload)
        header, *tensors = frames
        match fault.kind:
            case "drop":
                return True
            case "duplicate":
                self._link.send_frames(frames)
            case "delay":
                self._late.append((time.monotonic() + fault.amount, frames))
                return True
            case "reorder":
                self._overtaken = message.stream
                self._late.append((time.monotonic() + OVERTAKEN_S, frames))
                return True
            case "corrupt":
                frames = [header, *tensors[:-1], _flip(tensors[-1])] if tensors else [_flip(header)]
            case "corrupt-header":
                frames = [_flip(header), *tensors]
            case "truncate":
                cut = bytes(frames[-1])
                frames = [*frames[:-1], cut[: len(cut) // 2]]
            case "oversize":
                frames = [*frames, bytes(self._link.limit_bytes + 1)]
            case "partition":
                self._parted_until_s = time.monotonic() + fault.amount
                return True
        return self._link.send_frames(frames)

    def _send_late(self, *, at_once: bool = False) -> None:
        while self._late and (at_once or self._late[0][0] <= time.monotonic()):
            self._link.send_frames(self._late.popleft()[1])
            self._overtaken = None

    def _cut_if_due(self, message: Message) -> None:
        for fault in self._cuts:
            due = isinstance(message, Data) and message.step == fault.step
            if due and self._claim(str(fault)):
                self._link.redial()

    def _speak_as_zombie(self, message: Message, payload: Payload) -> None:
        """Say what a dead generation of this worker might still say: a hello, and wrong tensors."""
        if not isinstance(message, Data):
            return
        for name in self._zombies:
            if self._claim(name):
                dead = message.generation - 1
                wrong = tuple(tensor + 1 for tensor in payload)
                self._link.send(Hello(generation=dead, to=message.to, asks=True, wants={}))
                self._link.send(replace(message, generation=dead, checksum=0), wrong)


def _flip(frame: Frame) -> bytes:
    """A copy with one bit flipped, in its middle."""
    flipped = bytearray(frame)
    flipped[len(flipped) // 2] ^= 0x10
    return bytes(flipped)
