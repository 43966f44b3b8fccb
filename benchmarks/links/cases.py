"""The ways to move messages that benchmarks.links compares, and the process at the other end.

Owns how each is set up and driven: a sender with a window of messages in flight, a receiver that
acknowledges each. Ours go through the runtime's own links and memory; raw pyzmq and raw gloo do the
same work with nothing around it.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
import xxhash
import zmq
from torch import Tensor
from torch.distributed import FileStore, PrefixStore, ProcessGroupGloo

from runtime.block import Payload, Specs, TensorSpec
from runtime.core.messages import Ack, Data, Hello
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.links.admission import Admission, CurveKeys, Tokens
from runtime.links.doorkeeper import Doorkeeper
from runtime.links.edge import EdgeLink
from runtime.links.groups import gloo_opener
from runtime.links.guards import Macs
from runtime.links.link import Arrival, Damaged, End, Link
from runtime.links.shared_memory import shm_link
from runtime.links.torch_distributed import group_link
from runtime.links.zeromq import zmq_link
from runtime.state.retention import NeighboursRetention, Retention
from runtime.state.status_page import OwnedMemory
from runtime.trust.keys import RunKeys

TIMEOUT_S = 60.0
TIMEOUT_MS = 60_000
HOST = "127.0.0.1"
OURS = (
    *("shm", "shm+payload", "zmq-ipc", "zmq-ipc+payload"),
    *("zmq-tcp", "zmq-tcp unsigned", "zmq-tcp encrypted", "gloo"),
)
RAW = ("raw ipc", "raw tcp", "raw gloo")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement: `num_messages` of `size_bytes`, at most `window` in flight."""

    system: str
    size_bytes: int
    num_messages: int
    window: int
    where: str
    """A path in a directory of this case's own."""

    @property
    def specs(self) -> Specs:
        return {Stream.ACTIVATION: (TensorSpec(shape=(self.size_bytes,), dtype="uint8"),)}

    @property
    def plan(self) -> WorkerPlan:
        """The sender's."""
        size, window = self.size_bytes, max(2, self.window)
        windows = Window(
            max_messages=window,
            max_bytes=window * size,
            message_bytes=size,
            max_retained=window + 1,
        )
        return WorkerPlan(num_steps=self.num_messages, outgoing={Stream.ACTIVATION: windows})

    @property
    def is_signed(self) -> bool:
        """Whether messages are signed, and their receiver admitted, as between hosts."""
        return self.system in ("zmq-tcp", "zmq-tcp encrypted")

    @property
    def address(self) -> str:
        scheme = "ipc" if "ipc" in self.system or "tcp" not in self.system else "tcp"
        return f"ipc://@{self.where}" if scheme == "ipc" else f"tcp://{HOST}:*"


class Sender(Protocol):
    """The sending end: `acknowledged` says how many messages have arrived."""

    def send(self, step: int) -> None: ...
    def acknowledged(self, *, wait: bool) -> int: ...
    def close(self) -> None: ...


def stream(sender: Sender, case: Case, first: int) -> float:
    """Seconds from the first message of a window's flow to the last acknowledgement."""
    began_s = time.perf_counter()
    for step in range(first, first + case.num_messages):
        while sender.acknowledged(wait=False) <= step - case.window:
            sender.acknowledged(wait=True)
        sender.send(step)
    while sender.acknowledged(wait=True) < first + case.num_messages:
        pass
    return time.perf_counter() - began_s


# Ours -----------------------------------------------------------------------------------------


def make_link(
    context: "zmq.Context[zmq.Socket[bytes]]",
    case: Case,
    side: Side,
    at: str,
    doorkeeper: Doorkeeper | None,
) -> EdgeLink:
    """This end of the edge; `at` is the address that the upper end dials."""
    is_lower = side is Side.ABOVE
    keys = RunKeys(b"secret", "benchmark")
    macs = None
    if case.is_signed:
        macs = Macs(keys.edge(0, is_lower=is_lower))
    end = End(
        side=side,
        run_id="benchmark",
        specs=case.specs,
        guards_payload="payload" in case.system,
        macs=macs,
    )
    bind, connect = (case.address, None) if side is Side.ABOVE else (None, at)
    if case.system.startswith("shm"):
        plan = case.plan if side is Side.BELOW else WorkerPlan(num_steps=1)
        path = f"{case.where}-memory" if side is Side.BELOW else "/dev/null"
        return shm_link(
            context, end, NeighboursRetention(path, plan, case.specs), bind=bind, connect=connect
        )
    if case.system == "gloo":
        group = gloo_opener(lambda: FileStore(f"{case.where}-store", -1), HOST, timeout_s=TIMEOUT_S)
        return group_link(context, end, group, bind=bind, connect=connect)
    admission: Admission | None = None
    if case.is_signed and doorkeeper is not None:
        admission = Tokens(
            keys.edge(0, is_lower=is_lower).token, OwnedMemory("benchmark").page, doorkeeper
        )
        if case.system == "zmq-tcp encrypted":
            own, other = (keys.edge_pair(0, is_lower=end) for end in (is_lower, not is_lower))
            admission = CurveKeys(
                own, doorkeeper, server=other.public, peers={other.public: "neighbour"}
            )
    return zmq_link(context, end, bind=bind, connect=connect, admission=admission)


def receive(link: Link) -> Arrival:
    """The next message; raises if it is damaged or does not come."""
    while (found := link.receive()) is None:
        poller = zmq.Poller()
        for pollable in link.pollables:
            poller.register(pollable, zmq.POLLIN)
        if not poller.poll(TIMEOUT_MS):
            raise TimeoutError(f"nothing came in {TIMEOUT_S:.0f} s")
    if isinstance(found, Damaged):
        raise RuntimeError(found.reason)
    return found


class OurSender:
    """Retains each message and sends it, as a driver does; shared memory is written each time."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._context = zmq.Context()
        self._file = os.open(f"{case.where}-memory", os.O_RDWR | os.O_CREAT)
        self._retention = Retention(f"{case.where}-memory", case.plan, case.specs)
        self._payload = (torch.ones(case.size_bytes, dtype=torch.uint8),)
        self._doorkeeper = Doorkeeper(self._context) if case.is_signed else None
        self._link = make_link(self._context, case, Side.ABOVE, "", self._doorkeeper)
        if "payload" in case.system:
            self._retention.hash[Stream.ACTIVATION] = xxhash.xxh3_64
        self._copies = case.system.startswith("shm")
        self._acknowledged = 0
        self.address = self._link.address

    def meet(self) -> None:
        hello = receive(self._link)
        assert isinstance(hello.message, Hello)
        self._link.send(hello.message)

    def send(self, step: int) -> None:
        payload: Payload = self._payload
        found = 0
        if self._copies:
            self._retention.put(Stream.ACTIVATION, step, payload)
            payload = self._retention.get(Stream.ACTIVATION, step)
            found = self._retention.checksum(Stream.ACTIVATION, step)
        data = Data(stream=Stream.ACTIVATION, step=step, generation=0, to=0, checksum=found)
        self._link.send(data, payload)

    def acknowledged(self, *, wait: bool) -> int:
        found = receive(self._link) if wait else self._link.receive()
        while found is not None:
            assert isinstance(found, Arrival)
            assert isinstance(found.message, Ack)
            self._acknowledged = found.message.released
            found = self._link.receive()
        return self._acknowledged

    def close(self) -> None:
        self._link.close()
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        self._context.term()
        os.close(self._file)
        os.unlink(f"{self._case.where}-memory")  # gigabytes, many times over


def serve_ours(case: Case, address: str, rounds: int) -> None:
    """The receiving end of a case."""
    context = zmq.Context()
    doorkeeper = Doorkeeper(context) if case.is_signed else None
    link = make_link(context, case, Side.BELOW, address, doorkeeper)
    hello = Hello(generation=0, to=None, asks=True, wants={})
    deadline_s = time.monotonic() + TIMEOUT_S
    while not link.send(hello):
        if time.monotonic() > deadline_s:
            raise TimeoutError("no sender")
        time.sleep(0.001)
    receive(link)
    for step in range(rounds * case.num_messages):
        data, payload = receive(link)
        assert isinstance(data, Data)
        assert data.step == step, (data.step, step)
        link.send(
            Ack(
                stream=Stream.ACTIVATION,
                generation=0,
                to=0,
                expected=step + 1,
                released=step + 1,
                durable=step + 1,
            )
        )
        link.recycle(data.stream, payload)
    link.close()
    if doorkeeper is not None:
        doorkeeper.close()
    context.term()


# Raw ------------------------------------------------------------------------------------------


class RawZmqSender:
    """pyzmq alone: one frame a message, sent without a copy."""

    def __init__(self, case: Case) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(case.address)
        self._payload = torch.ones(case.size_bytes, dtype=torch.uint8).numpy().data
        self._acknowledged = 0
        found = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(found, bytes)
        self.address = found.rstrip(b"\0").decode()

    def meet(self) -> None:
        assert self._socket.poll(TIMEOUT_MS)
        self._socket.recv()

    def send(self, step: int) -> None:
        del step
        self._socket.send(self._payload, copy=False)

    def acknowledged(self, *, wait: bool) -> int:
        if wait and not self._socket.poll(TIMEOUT_MS):
            raise TimeoutError("no acknowledgement")
        while self._socket.poll(0):
            self._acknowledged = int(self._socket.recv())
        return self._acknowledged

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def serve_raw_zmq(case: Case, address: str, rounds: int) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.connect(address)
    socket.send(b"here")
    room = torch.empty(case.size_bytes, dtype=torch.uint8).numpy().data
    for step in range(rounds * case.num_messages):
        assert socket.poll(TIMEOUT_MS)
        assert socket.recv_into(room) == case.size_bytes
        socket.send(str(step + 1).encode())
    socket.close()
    context.term()


class RawGlooSender:
    """torch.distributed's gloo alone, which sends when the peer receives: that is its
    acknowledgement, but for one message in flight, for which a byte comes back."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._payload = torch.ones(case.size_bytes, dtype=torch.uint8)
        self._word = torch.zeros(1, dtype=torch.uint8)
        self._under_way: deque[Any] = deque()
        self._acknowledged = 0
        self.address = ""

    def meet(self) -> None:
        self._group: Any = gloo_group(self._case, 0)

    def send(self, step: int) -> None:
        del step
        self._under_way.append(self._group.send([self._payload], 1, 0))

    def acknowledged(self, *, wait: bool) -> int:
        if wait and self._under_way:
            self._under_way.popleft().wait()
            if self._case.window == 1:
                self._group.recv([self._word], 1, 1).wait()
            self._acknowledged += 1
        return self._acknowledged

    def close(self) -> None:
        del self._group


def gloo_group(case: Case, rank: int) -> Any:
    """A group of two, for this rank."""
    options: Any = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname=HOST)]
    options._timeout = timedelta(seconds=TIMEOUT_S)
    store = PrefixStore("raw", FileStore(f"{case.where}-store", -1))
    return ProcessGroupGloo(store, rank, 2, options)


def serve_raw_gloo(case: Case, address: str, rounds: int) -> None:
    del address
    group = gloo_group(case, 1)
    room = torch.empty(case.size_bytes, dtype=torch.uint8)
    word = torch.zeros(1, dtype=torch.uint8)
    for _ in range(rounds * case.num_messages):
        group.recv([room], 0, 0).wait()
        if case.window == 1:
            group.send([word], 0, 1).wait()


def make_sender(case: Case) -> Any:
    if case.system in OURS:
        return OurSender(case)
    return RawGlooSender(case) if case.system == "raw gloo" else RawZmqSender(case)


def serve(orders: Connection) -> None:
    """The process at the other end: takes (case, address, rounds) until it gets None."""
    torch.set_num_threads(1)
    while (order := orders.recv()) is not None:
        case, address, rounds = order
        serving: Callable[[Case, str, int], None] = serve_ours
        if case.system in RAW:
            serving = serve_raw_gloo if case.system == "raw gloo" else serve_raw_zmq
        serving(case, address, rounds)
        orders.send("done")


def copy(source: Tensor, rooms: list[Tensor], num_messages: int) -> float:
    """Seconds that plain copies take, into as many places as a sender retains messages, each of
    which has been copied to before."""
    for room in rooms:
        room.copy_(source)
    began_s = time.perf_counter()
    for step in range(num_messages):
        rooms[step % len(rooms)].copy_(source)
    return time.perf_counter() - began_s
