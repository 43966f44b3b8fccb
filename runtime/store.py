"""The key-value store of a job, as any of its processes reaches it.

Owns the connection: where the store is, who hosts it, and that no call lasts longer than it may. A
network that is cut holds a call of TCPStore's for as long as it is cut, and often longer; so each
call is made on a thread that is left behind when it is late, and the next one connects anew. What
is said in the store, and whom to believe, is runtime.rendezvous's.
"""

import logging
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from torch.distributed import FileStore, Store, TCPStore

from runtime.host import is_loopback
from runtime.program import StoreAddress

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 5.0  # a first connection included

T = TypeVar("T")
Answer = tuple[object, Exception | None]


class StoreAway(Exception):
    """The store did not answer in time, or not at all: what it holds is unknown."""


@dataclass
class _Call:
    """Work for a connection's thread, and where its answer goes."""

    do: Callable[[Store], object]
    answer: "queue.SimpleQueue[Answer]" = field(default_factory=queue.SimpleQueue)


class SharedStore:
    """A connection that is made when it is first needed, and again after an error.

    May be used by several threads; their calls follow each other.
    """

    def __init__(self, connect: Callable[[], Store]) -> None:
        self._connect = connect
        self._calls: queue.SimpleQueue[_Call] | None = None
        self._lock = threading.Lock()

    def put(self, key: str, value: bytes, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Write a value. Raises StoreAway."""
        self._call(lambda store: store.set(key, value.decode()), timeout_s)

    def find(self, key: str, *, timeout_s: float = CALL_TIMEOUT_S) -> bytes | None:
        """What lies at a key; None if nothing does. Raises StoreAway."""

        def look(store: Store) -> bytes | None:
            found: bytes | None = store.get(key) if store.check([key]) else None
            return found

        return self._call(look, timeout_s)

    def _call(self, do: Callable[[Store], T], timeout_s: float) -> T:
        with self._lock:
            if self._calls is None:
                self._calls = queue.SimpleQueue()
                thread = threading.Thread(
                    target=_serve, args=(self._connect, self._calls), name="store", daemon=True
                )
                thread.start()
            call = _Call(do)
            self._calls.put(call)
            try:
                found, error = call.answer.get(timeout=timeout_s)
            except queue.Empty:
                found, error = None, TimeoutError(f"no answer in {timeout_s:.0f} s")
            if error is None:
                return found  # type: ignore[return-value]
            self._calls = None  # its thread ends with its call, however late
            raise StoreAway(f"the job's store can't be reached: {error}") from error


def _serve(connect: Callable[[], Store], calls: "queue.SimpleQueue[_Call]") -> None:
    """Answer calls by one connection, until one of them fails."""
    store: Store | None = None
    error: Exception | None = None
    while error is None:
        call = calls.get()
        found: object = None
        try:
            store = store or connect()
            found = call.do(store)
        except RuntimeError as raised:  # all that torch's stores raise
            error = raised
        call.answer.put((found, error))


def open_store(address: StoreAddress) -> Store:
    """Make a connection of one's own. Raises RuntimeError if nobody answers in time."""
    if address.file is not None:
        store: Store = FileStore(address.file, -1)
    else:
        store = TCPStore(
            address.host,
            address.port,
            is_master=False,
            timeout=timedelta(seconds=CALL_TIMEOUT_S),
            wait_for_workers=False,
        )
    store.set_timeout(timedelta(seconds=CALL_TIMEOUT_S))  # of what is deleted meanwhile
    return store


def host_store(address: StoreAddress) -> Store:
    """Host the store, at its address alone, for as long as the result lives. Raises OSError if the
    address is taken, or none of this host's."""
    with listen(address) as listening:
        return TCPStore(
            address.host,
            address.port,
            is_master=True,
            timeout=timedelta(seconds=CALL_TIMEOUT_S),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )


def listen(address: StoreAddress) -> socket.socket:
    """A socket that listens at an address of this host. If that is its own name, and known here as
    loopback, as in Debian's /etc/hosts, it listens at all: others know the name as another."""
    family, kind, _, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if is_loopback(str(place[0])) and not is_loopback(address.host):
        place = ("", *place[1:])
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening
