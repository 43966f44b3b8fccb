"""Both ends of an edge for the tests of links; a link joins them by a line in LINKS."""

import os
import secrets
import select
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import zmq
from torch.distributed import FileStore, ProcessGroup

from runtime.block import Payload, Specs, TensorSpec, message_bytes
from runtime.core.messages import Ack, Data, Hello, Message
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.links.admission import CurveKeys, Tokens
from runtime.links.doorkeeper import Doorkeeper
from runtime.links.edge import EdgeLink
from runtime.links.groups import OpenGroup, StagedGroup, gloo_opener
from runtime.links.guards import Macs
from runtime.links.link import Arrival, Damaged, End, Frame, Link, LinkError
from runtime.links.shared_memory import shm_link
from runtime.links.torch_distributed import group_link
from runtime.links.zeromq import zmq_link
from runtime.state.retention import NeighboursRetention, Retention
from runtime.state.status_page import OwnedMemory
from runtime.trust.keys import RunKeys

T = TypeVar("T")
TIMEOUT_S = 20.0
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
SPECS: Specs = {
    Stream.ACTIVATION: tuple(TensorSpec(shape=(3, 5), dtype=dtype) for dtype in DTYPES),
    Stream.TIE_UP: (TensorSpec(shape=(0,), dtype="float32"), TensorSpec(shape=(), dtype="int64")),
    Stream.TIE_DOWN: (TensorSpec(shape=(16 << 20,), dtype="float32"),),  # 64 MiB
}


ROOM = 64  # messages that are kept, but for the largest ones


@dataclass
class Ends:
    """Both ends of an edge."""

    lower: Link
    upper: Link
    address: str
    make_another_lower: Callable[[], Link]
    guards_payload: bool = True
    doorkeeper: Doorkeeper | None = None

    def close(self) -> None:
        self.lower.close()
        self.upper.close()
        if self.doorkeeper is not None:
            self.doorkeeper.close()


def zmq_ends(address: str) -> Callable[[zmq.Context], Ends]:
    def make(context: zmq.Context) -> Ends:
        lower = make_end(context, Side.ABOVE, bind=address.format(token=secrets.token_hex(6)))
        upper = make_end(context, Side.BELOW, connect=lower.address)
        return Ends(
            lower=lower,
            upper=upper,
            address=lower.address,
            make_another_lower=partial(another_lower, context),
        )

    return make


def another_lower(context: zmq.Context) -> Link:
    return make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")


def tcp_ends(*, encrypts: bool) -> Callable[[zmq.Context], Ends]:
    """Two workers that know each other on a network."""

    def make(context: zmq.Context) -> Ends:
        keys, doorkeeper = RunKeys(b"secret", "run"), Doorkeeper(context)
        pages = {side: OwnedMemory("test").page for side in Side}

        def make_end(side: Side, **address: str) -> EdgeLink:
            is_lower = side is Side.ABOVE
            own = keys.edge(0, is_lower=is_lower)
            end = End(side=side, run_id="run", specs=SPECS, macs=Macs(own))
            admission = Tokens(own.token, pages[side], doorkeeper)
            if encrypts:
                pair, other = (keys.edge_pair(0, is_lower=e) for e in (is_lower, not is_lower))
                admission = CurveKeys(
                    pair, doorkeeper, server=other.public, peers={other.public: "neighbour"}
                )
            return zmq_link(context, end, admission=admission, **address)

        lower = make_end(Side.ABOVE, bind="tcp://127.0.0.1:*")
        return Ends(
            lower=lower,
            upper=make_end(Side.BELOW, connect=lower.address),
            address=lower.address,
            make_another_lower=partial(make_end, Side.ABOVE, bind="tcp://127.0.0.1:*"),
            doorkeeper=doorkeeper,
        )

    return make


def make_end(context: zmq.Context, side: Side, *, run_id: str = "run", **address: str) -> EdgeLink:
    return zmq_link(context, End(side=side, run_id=run_id, specs=SPECS), **address)


class RetainingLink:
    """A link over shared memory that retains what it sends, as a driver does before it sends."""

    def __init__(self, link: EdgeLink, retention: Retention) -> None:
        self._link = link
        self.retention = retention

    def __getattr__(self, name: str):
        return getattr(self._link, name)

    def frames(self, message: Message, payload: Payload = ()) -> list[Frame]:
        if isinstance(message, Data) and not message.absent:
            self.retention.put(message.stream, message.step, payload)
        return self._link.frames(message, payload)

    def send(self, message: Message, payload: Payload = ()) -> bool:
        return self._link.send_frames(self.frames(message, payload))


def plan_of(side: Side) -> WorkerPlan:
    """The plan of the worker whose only edge is on a side."""
    windows = {
        stream: Window(
            max_messages=2,
            max_bytes=2 * message_bytes(specs),
            message_bytes=message_bytes(specs),
            max_retained=3 if stream is Stream.TIE_DOWN else ROOM,
        )
        for stream, specs in SPECS.items()
        if stream.target is side
    }
    return WorkerPlan(num_steps=1, outgoing=windows)


def retention(fd: int, side: Side) -> Retention:
    return Retention(f"/proc/self/fd/{fd}", plan_of(side), SPECS)


def retention_of_other(fd: int, side: Side) -> NeighboursRetention:
    return NeighboursRetention(f"/proc/self/fd/{fd}", plan_of(side), SPECS)


def shm_ends(*, guards_payload: bool) -> Callable[[zmq.Context], Ends]:
    def make(context: zmq.Context) -> Ends:
        fds = [os.memfd_create(f"test-{side.value}") for side in Side]
        retained = {side: retention(fd, side) for side, fd in zip(Side, fds, strict=True)}
        others = {side: retention_of_other(fd, side) for side, fd in zip(Side, fds, strict=True)}
        for fd in fds:
            os.close(fd)  # they stay mapped
        made: dict[Side, RetainingLink] = {}
        address = {"bind": f"ipc://@test-{secrets.token_hex(6)}"}
        for side, other in ((Side.ABOVE, Side.BELOW), (Side.BELOW, Side.ABOVE)):
            end = End(side=side, run_id="run", specs=SPECS, guards_payload=guards_payload)
            link = shm_link(context, end, others[other], **address)
            made[side] = RetainingLink(link, retained[side])
            address = {"connect": made[side].address} if side is Side.ABOVE else address
        lower, upper = made[Side.ABOVE], made[Side.BELOW]
        dialled = address["connect"]
        return Ends(
            lower=lower,
            upper=upper,
            address=dialled,
            make_another_lower=partial(another_lower, context),
            guards_payload=guards_payload,
        )

    return make


class PolledWork:
    """A transfer that ends on a thread of its own, as one on a GPU ends there."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._end, args=(wait,), daemon=True)
        self._thread.start()

    def _end(self, wait: Callable[[], object]) -> None:
        try:
            wait()
        except RuntimeError as error:
            self._failure = error

    def is_completed(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        if self._failure is not None:
            raise self._failure


class PolledGloo:
    """gloo's group in NCCL's place: its transfers can be polled. It can't be aborted."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group

    def send(self, tensors: list[torch.Tensor], to: int, tag: int) -> PolledWork:
        return PolledWork(self._group.send(tensors, to, tag).wait)

    def recv(self, tensors: list[torch.Tensor], source: int, tag: int) -> PolledWork:
        return PolledWork(self._group.recv(tensors, source, tag).wait)

    def abort(self) -> None:
        pass


def staged_opener(*given: object, **named: object) -> OpenGroup:
    """NCCL's groups over gloo, on the CPU."""
    open_gloo = gloo_opener(*given, **named)
    return lambda name, rank: StagedGroup(
        PolledGloo(open_gloo(name, rank)._group), torch.device("cpu")
    )


def group_ends(make_opener: Callable[..., OpenGroup]) -> Callable[[zmq.Context], Ends]:
    """Each end opens its own connection to the store, as processes do."""

    def make(context: zmq.Context) -> Ends:
        store = f"{tempfile.mkdtemp()}/store"
        open_group = make_opener(lambda: FileStore(store, -1), "127.0.0.1", timeout_s=2.0)
        ends = [End(side=side, run_id="run", specs=SPECS) for side in (Side.ABOVE, Side.BELOW)]
        address = f"ipc://@test-{secrets.token_hex(6)}"
        lower = group_link(context, ends[0], open_group, bind=address)
        upper = group_link(context, ends[1], open_group, connect=address)
        return Ends(
            lower=lower,
            upper=upper,
            address=address,
            make_another_lower=partial(another_lower, context),
        )

    return make


LINKS = {
    "gloo": group_ends(gloo_opener),
    "nccl-over-gloo": group_ends(staged_opener),
    "shm": shm_ends(guards_payload=False),
    "shm-guarded": shm_ends(guards_payload=True),
    "zmq-ipc": zmq_ends("ipc://@test-{token}"),
    "zmq-tcp": tcp_ends(encrypts=False),
    "zmq-tcp-encrypted": tcp_ends(encrypts=True),
}


def wait(link: Link) -> None:
    poller = zmq.Poller()
    for pollable in link.pollables:
        poller.register(pollable, zmq.POLLIN)
    assert poller.poll(TIMEOUT_S * 1000), "nothing arrived in time"


def receive(link: Link) -> Arrival | Damaged:
    while (found := link.receive()) is None:
        wait(link)
    return found


def send(link: Link, message: Message, payload: Payload = ()) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not link.send(message, payload):
        assert time.monotonic() < deadline_s, "no peer in time"
        select.select([], [], [], 0.001)


def repeat(sender: Link, receiver: Link, message: Message) -> Message:
    """Send a message until it is heard, as cores do: one behind a redial may be lost."""
    deadline_s = time.monotonic() + TIMEOUT_S
    poller = zmq.Poller()
    for pollable in receiver.pollables:
        poller.register(pollable, zmq.POLLIN)
    while time.monotonic() < deadline_s:
        send(sender, message)
        poller.poll(20)
        while (heard := receiver.receive()) is not None:
            if isinstance(heard, Arrival) and heard.message.generation == message.generation:
                return heard.message
    raise AssertionError("nothing was heard in time")


def random_payload(stream: Stream, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randint(0, 2, spec.shape, generator=generator).to(spec.torch_dtype)
        for spec in SPECS[stream]
    )


def data(stream: Stream, step: int, *, absent: bool = False, seed: int = 0) -> Arrival:
    """Data and its tensors, as `send(link, *data(...))` takes them."""
    payload = () if absent else random_payload(stream, seed)
    return Arrival(Data(stream=stream, step=step, generation=1, to=2, absent=absent), payload)


def hello(generation: int = 0) -> Hello:
    return Hello(generation=generation, to=None, asks=True, wants={})


def ack(stream: Stream, *, resend: bool = False) -> Ack:
    return Ack(stream=stream, generation=0, to=1, expected=3, released=2, durable=1, resend=resend)


def flip(frame: bytes) -> bytes:
    return bytes([frame[0] ^ 1]) + frame[1:]


def open_again(make: Callable[[], T]) -> T:
    """At an address that its last socket may not have left yet."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return make()
        except LinkError:
            assert time.monotonic() < deadline_s, "not in time"
            time.sleep(0.005)
