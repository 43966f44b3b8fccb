"""How a socket on a network admits its peers, and how a peer shows that it is one.

Owns the two ways: CURVE keys, which encrypt all that follows, and one-use tokens, which let what
follows through at full speed; then each message is signed (runtime.links.guards).
"""

import hmac
from collections.abc import Mapping
from typing import Protocol

import zmq
import zmq.utils.z85

from runtime.links.doorkeeper import Doorkeeper
from runtime.state.status_page import Field, Page
from runtime.trust.keys import KeyPair

MOST_DIGITS = 19


class Admission(Protocol):
    """Of one end of an edge, or of a worker and its coordinator."""

    is_for_once: bool
    """Whether what is shown lets in but one connection."""

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Before a socket binds: let in only who belongs there."""

    def listens_at(self, address: str) -> None:
        """Behind that: where others reach it."""

    def show(self, socket: "zmq.Socket[bytes]", address: str) -> None:
        """Before a socket connects: show what lets it in there."""


class Tokens:
    """The n-th token is good once, at one address, and no earlier one after it. Who has seen it
    used can't use it; nor can who was shown it in the listener's place, for it is good at his
    address alone. Both counts are on pages, which outlive a worker's generations.
    """

    is_for_once = True

    def __init__(self, key: bytes, page: Page, doorkeeper: Doorkeeper) -> None:
        self._key = key
        self._page = page
        self._doorkeeper = doorkeeper
        self._address = ""

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        socket.setsockopt(zmq.PLAIN_SERVER, 1)
        self._doorkeeper.watch(socket, self._admits)

    def listens_at(self, address: str) -> None:
        self._address = address

    def show(self, socket: "zmq.Socket[bytes]", address: str) -> None:
        self._page[Field.DIALLED] += 1
        number = str(self._page[Field.DIALLED]).encode()
        socket.setsockopt(zmq.PLAIN_USERNAME, number)
        socket.setsockopt(zmq.PLAIN_PASSWORD, self._token(number, address))

    def _token(self, number: bytes, address: str) -> bytes:
        named = number + b"\0" + address.encode()
        return hmac.digest(self._key, named, "sha256").hex().encode()

    def _admits(self, mechanism: bytes, credentials: list[bytes]) -> str | None:
        if mechanism != b"PLAIN" or len(credentials) != 2:
            return None
        number, token = credentials
        if not self._address or len(number) > MOST_DIGITS:
            return None
        if not hmac.compare_digest(token, self._token(number, self._address)):
            return None
        if int(number) <= self._page[Field.ADMITTED]:
            return None
        self._page[Field.ADMITTED] = int(number)
        return "neighbour"


class CurveKeys:
    """CURVE, with those peers alone that are named: `peers` are names by public key."""

    is_for_once = False

    def __init__(
        self,
        own: KeyPair,
        doorkeeper: Doorkeeper | None = None,
        *,
        server: bytes = b"",
        peers: Mapping[bytes, str] | None = None,
    ) -> None:
        """`server` is the public key of the end that binds, for the one that connects; who binds
        has a doorkeeper."""
        self._own = own
        self._server = server
        self._peers = dict(peers or {})
        self._doorkeeper = doorkeeper

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        assert self._doorkeeper is not None, "who binds has a doorkeeper"
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._own.secret)
        self._doorkeeper.watch(socket, self._admits)

    def listens_at(self, address: str) -> None:
        """A key is good wherever its owner is."""

    def show(self, socket: "zmq.Socket[bytes]", address: str) -> None:
        del address
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._own.secret)

    def _admits(self, mechanism: bytes, credentials: list[bytes]) -> str | None:
        if mechanism != b"CURVE" or len(credentials) != 1:
            return None
        return self._peers.get(zmq.utils.z85.encode(credentials[0]))
