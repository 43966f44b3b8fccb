"""An edge whose tensors go through torch.distributed: a group of two for each direction.

Owns the groups' lives and the threads that wait for them; what a group is, and by which backend,
is runtime.links.groups's. Headers, credits and wake-ups go over the channel; a header names the
group that its tensors come by. The sender makes a new group after any error and for a new
generation of the receiver, who joins what it is told of: so each direction is made anew by its
sender alone, and no one else has to be asked (torch's new_group is collective).
"""

import contextlib
import logging
import os
import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import msgpack
import torch
import zmq

from runtime.block import Payload
from runtime.core.messages import Ack, Data, Hello, Message
from runtime.links.admission import Admission
from runtime.links.channel import Channel
from runtime.links.edge import EdgeLink
from runtime.links.groups import OPENING_TIMEOUT_S, RECEIVER, SENDER, Group, OpenGroup
from runtime.links.link import Arrival, Damaged, End, Frame, Pollable
from runtime.links.tensor_bytes import tensor_bytes
from runtime.links.zeromq import HEADER_LIMIT_BYTES, SpareTensors

log = logging.getLogger(__name__)

T = TypeVar("T")  # what a direction moves: frames to be sent, or the message they belong to


class Direction(Generic[T]):
    """One group, and the thread that opens it and moves messages by it, in order.

    After an error it `is_broken` for good, and `fail` is called for each message it still gets.
    When it has ended the group is closed, which the other end notices.
    """

    def __init__(
        self,
        name: str,
        open_group: Callable[[], Group],
        move: Callable[[Group, T], None],
        fail: Callable[[T, str], None],
    ) -> None:
        self.name = name
        self.num_taken = 0
        self.is_broken = False
        self._open_group = open_group
        self._move = move
        self._fail = fail
        self._group: Group | None = None
        self._is_ending = False
        self._jobs: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"group {name}", daemon=True)
        self._thread.start()

    def take(self, job: T) -> None:
        """Move a message when those before it are done."""
        self.num_taken += 1
        self._jobs.put(job)

    def end(self) -> None:
        """Let the thread go, when what it has is done, or before if the group can be left."""
        self._is_ending = True
        self._jobs.put(None)
        if (group := self._group) is not None:
            group.leave()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until the thread has gone, but not for a peer that has stopped while it moves."""
        self._thread.join(OPENING_TIMEOUT_S + 1.0)

    def _work(self) -> None:
        try:
            self._move_all()
        finally:
            self.is_broken = True  # whatever ends this thread, nothing more goes this way

    def _move_all(self) -> None:
        reason = "its group is broken"
        while (job := self._jobs.get()) is not None:
            try:
                if not self.is_broken:
                    self._move(self._opened(), job)
                    continue
            except RuntimeError as error:  # all that torch's groups raise
                self.is_broken, self._group, reason = True, None, str(error)
                log.warning("group %s is broken: %s", self.name, reason)
            self._fail(job, reason)
        self._group = None

    def _opened(self) -> Group:
        if self._group is None:
            self._group = self._open_group()
            if self._is_ending:  # and `end` has seen no group
                self._group.leave()
        return self._group


def group_link(
    context: zmq.Context[zmq.Socket[bytes]],
    end: End,
    open_group: OpenGroup,
    *,
    bind: str | None = None,
    connect: str | None = None,
    admission: Admission | None = None,
) -> EdgeLink:
    """One end of an edge. `open_group` opens a group by its name and this end's rank in it."""
    channel = Channel(
        context,
        most_bytes=HEADER_LIMIT_BYTES,
        limit_bytes=HEADER_LIMIT_BYTES,
        bind=bind,
        connect=connect,
        admission=admission,
    )
    return EdgeLink(end, channel, lambda end, channel: GroupTensors(end, channel, open_group))


class GroupTensors:
    """A TensorPath: the group that a header names."""

    def __init__(self, end: End, channel: Channel, open_group: OpenGroup) -> None:
        self._end = end
        self._channel = channel
        self._open_group = open_group
        self._spare = SpareTensors(end.incoming)
        self.recycle = self._spare.recycle
        self._sends: Direction[list[Frame]] | None = None
        self._receives: Direction[Data] | None = None
        self._made: list[Direction[Any]] = []
        self._left: str | None = None  # the last group that this end has broken off
        self._peer_generation: int | None = None
        self._arrived: deque[Arrival | Damaged] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def pollables(self) -> Sequence[Pollable]:
        return [self._wake]

    # Sending ----------------------------------------------------------------------------------

    def frames(self, payload: Payload) -> list[Frame]:
        return [tensor_bytes(tensor) for tensor in payload]

    def send(self, frames: list[Frame]) -> bool:
        header, *tensors = frames
        if not tensors:
            return self._channel.send(frames)
        if self._sends is None or self._sends.is_broken:
            name = f"{self._end.run_id}-{secrets.token_hex(8)}"
            open_group = partial(self._open_group, name, SENDER)
            self._sends = self._begin(Direction(name, open_group, _send, _forget))
        sizes = [len(tensor) for tensor in tensors]
        place = [self._sends.name, self._sends.num_taken, sizes]
        sent = self._channel.send([header, msgpack.packb(place)])
        if sent:
            self._sends.take(tensors)
        return sent

    def _begin(self, direction: Direction[T]) -> Direction[T]:
        self._made = [*(d for d in self._made if d.is_alive), direction]
        return direction

    def note(self, received: Message | Damaged) -> None:
        match received:
            case Hello(generation=generation) if generation != self._peer_generation:
                self._peer_generation = generation
                self._leave_group()  # a new generation of the other end is in none
            case Ack(resend=True):
                self._leave_group()  # what is asked for again may have been lost with it
            case Damaged() if self._receives is not None:
                # Its tensors may come by the group, in which nothing tells them apart.
                self._left = self._receives.name
                self._receives.end()
                self._receives = None

    def _leave_group(self) -> None:
        """Let what is sent next make a new group."""
        if self._sends is not None:
            self._sends.end()
            self._sends = None

    # Receiving --------------------------------------------------------------------------------

    def receive(self, message: Data) -> Damaged | None:
        """Hand a message over to the group that its header names; its tensors come by that."""
        reason = self._await_tensors(message)
        return None if reason is None else Damaged(stream=message.stream, reason=reason)

    def _await_tensors(self, message: Data) -> str | None:
        """The same; what is wrong, if something is."""
        try:
            frame = self._channel.receive_more() if self._channel.has_more else b""
            name, index, sizes = msgpack.unpackb(frame)
            name.encode()
        except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
            return f"it names no group: {error}"
        if self._channel.has_more:
            return "it has too many frames"
        if name == self._left:
            return "its group is broken"  # the sender will notice, and make another
        if self._receives is None or self._receives.name != name:
            if self._receives is not None:
                self._receives.end()
            open_group = partial(self._open_group, name, RECEIVER)
            direction = Direction(name, open_group, self._take_tensors, self._give_up)
            self._receives = self._begin(direction)
        due = [spec.size_bytes for spec in self._end.incoming[message.stream]]
        if sizes != due:
            return f"frames of {sizes} bytes for {due}"
        if index != self._receives.num_taken:
            return f"message {index} of its group, but {self._receives.num_taken} is due"
        self._receives.take(message)
        return None

    def take_late(self) -> Arrival | Damaged | None:
        if not self._arrived:  # else the next turn must still be woken for the rest
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return self._arrived.popleft() if self._arrived else None

    def _take_tensors(self, group: Group, message: Data) -> None:
        payload = self._spare.take(message.stream)
        for tensor in payload:
            if tensor.nbytes:
                group.receive(tensor.reshape(-1).view(torch.uint8))
        self._arrive(self._end.checked(message, payload))

    def _give_up(self, message: Data, reason: str) -> None:
        self._arrive(Damaged(stream=message.stream, reason=reason))

    def _arrive(self, message: Arrival | Damaged) -> None:
        self._arrived.append(message)
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        for direction in self._made:
            direction.end()
        for direction in self._made:
            direction.join()  # a thread of torch's that outlives the interpreter aborts it
        if not any(direction.is_alive for direction in self._made):
            os.close(self._wake)  # no one is left who would write to it


def _send(group: Group, frames: list[Frame]) -> None:
    for frame in frames:
        if len(frame):
            writable = bytearray(frame) if memoryview(frame).readonly else frame  # torch wants it
            group.send(torch.frombuffer(writable, dtype=torch.uint8))


def _forget(frames: list[Frame], reason: str) -> None:
    """What can't be sent is lost on the way: its receiver will ask for it."""
    del frames, reason
