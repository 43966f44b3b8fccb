"""Who may connect to this process's sockets, and how many were sent away.

Owns the answers to ZeroMQ's question whom to admit (ZAP, RFC 27), and the counting, on a thread of
its own. Whom a socket admits is its admission's to say. A stranger's connection ends in ZeroMQ, so
that nothing he sends is read by this process.
"""

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

log = logging.getLogger(__name__)

ZAP_ADDRESS = "inproc://zeromq.zap.01"  # where ZeroMQ asks, by RFC 27
POLL_MS = 100
HANDSHAKE_MS = 5000  # for a peer to prove itself, before its connection is closed
FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
WATCHED = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_MONITOR_STOPPED | FAILED
LOGGED_REFUSALS = 20

Admits = Callable[[bytes, list[bytes]], str | None]  # mechanism, credentials -> who it is


class Doorkeeper:
    """The one of a context; its sockets must be given to `watch` before they bind."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self._context = context
        self._admits: dict[bytes, Admits] = {}
        self._monitors: list[zmq.Socket[bytes]] = []
        self._recent_s: deque[float] = deque()  # when the latest connections were accepted
        self._num_accepted = self._num_admitted = self._num_failed = self._num_denied = 0
        self.num_refused = 0  # connections that were not admitted
        self._zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(ZAP_ADDRESS)
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="doorkeeper", daemon=True)
        self._thread.start()

    def watch(self, socket: "zmq.Socket[bytes]", admits: Admits) -> None:
        """Let `admits` say who may connect to a socket, and count who may not."""
        domain = secrets.token_hex(8).encode()
        self._admits[domain] = admits
        socket.setsockopt(zmq.ZAP_DOMAIN, domain)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without this thread nobody is let in
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        address = f"inproc://doorkeeper-{domain.decode()}"
        socket.monitor(address, WATCHED)
        monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(address)
        self._monitors.append(monitor)

    def close(self) -> None:
        """End the thread; whom it has admitted stays so. Nobody is admitted any more."""
        self._is_closing.set()
        self._thread.join()

    # The thread -------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._is_closing.is_set():
                self._turn()
        finally:
            # ZeroMQ closes sockets later, and the next doorkeeper may come before.
            with contextlib.suppress(zmq.ContextTerminated):
                self._zap.unbind(ZAP_ADDRESS)
            for socket in (self._zap, *self._monitors):
                socket.close(0)

    def _turn(self) -> None:
        monitors = list(self._monitors)
        poller = zmq.Poller()
        for socket in (self._zap, *monitors):
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(POLL_MS))
        if self._zap in ready:
            self._answer()
        for monitor in monitors:
            if monitor in ready:
                self._note(monitor)
        self._count()

    def _answer(self) -> None:
        _, request, domain, address, _, mechanism, *credentials = self._zap.recv_multipart()
        try:
            who = self._admits[domain](mechanism, credentials)
        except Exception:  # who is not answered waits, and so would all that come behind
            log.exception("who asks to be let in can't be judged, and is refused")
            who = None
        status = [b"400", b"not of this job", b""] if who is None else [b"200", b"", who.encode()]
        self._zap.send_multipart([b"1.0", request, *status, b""])
        if who is None:
            self._num_denied += 1
            if self._num_denied <= LOGGED_REFUSALS:
                log.warning("a connection from %s was refused", address.decode(errors="replace"))

    def _note(self, monitor: "zmq.Socket[bytes]") -> None:
        event = recv_monitor_message(monitor)["event"]
        if event == zmq.EVENT_ACCEPTED:
            self._recent_s.append(time.monotonic())
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._num_admitted += 1
        elif event & FAILED:
            self._num_failed += 1
        elif event == zmq.EVENT_MONITOR_STOPPED:
            self._monitors.remove(monitor)
            monitor.close(0)

    def _count(self) -> None:
        """Those that are told to have failed; or more, if so many have had their time and were not
        admitted, for of some ends ZeroMQ says nothing."""
        while self._recent_s and time.monotonic() - self._recent_s[0] > HANDSHAKE_MS / 1000:
            self._recent_s.popleft()
            self._num_accepted += 1
        self.num_refused = max(self._num_failed, self._num_accepted - self._num_admitted)
