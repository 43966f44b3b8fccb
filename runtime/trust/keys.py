"""What is derived from a job's secret: one key for each thing that is to be believed.

Owns the derivation (HKDF, RFC 5869, with SHA-256) and the names. Whoever has one key learns nothing
of another, and no key of one run is any use in another run.
"""

import hmac
from typing import NamedTuple

import zmq
import zmq.utils.z85


class KeyPair(NamedTuple):
    """A CURVE key pair, as ZeroMQ takes it."""

    public: bytes
    secret: bytes


class EdgeKeys(NamedTuple):
    """The keys of one end of an edge: that by which its upper end is admitted, and those of what
    this end sends and receives."""

    token: bytes
    sent: bytes
    received: bytes


def derive(secret: bytes, *names: str) -> bytes:
    """The key of 32 bytes that has these names."""
    extracted = hmac.digest(b"loco", secret, "sha256")
    return hmac.digest(extracted, "\0".join(names).encode() + b"\x01", "sha256")


def rendezvous_key(secret: bytes) -> bytes:
    """By which what is said before there is a run is sealed: nonces and the announcement."""
    return derive(secret, "rendezvous")


def curve_pair(key: bytes) -> KeyPair:
    """The key pair whose secret half is a derived key."""
    secret = zmq.utils.z85.encode(key)
    return KeyPair(public=zmq.curve_public(secret), secret=secret)


class RunKeys:
    """The keys of one run, all of which its id goes into."""

    def __init__(self, secret: bytes, run_id: str) -> None:
        self._secret = secret
        self._run_id = run_id

    def _derive(self, *names: str) -> bytes:
        return derive(self._secret, "run", self._run_id, *names)

    @property
    def sealing(self) -> bytes:
        """By which addresses and places in the store are sealed."""
        return self._derive("store")

    @property
    def coordinator(self) -> KeyPair:
        return curve_pair(self._derive("coordinator"))

    def worker(self, block_index: int) -> KeyPair:
        """That by which the coordinator knows worker k."""
        return curve_pair(self._derive("worker", str(block_index)))

    def edge(self, edge: int, *, is_lower: bool) -> EdgeKeys:
        """Those of the lower or the upper end of an edge."""
        up, down = (self._derive("edge", str(edge), way) for way in ("up", "down"))
        token = self._derive("edge", str(edge), "token")
        return EdgeKeys(token, up, down) if is_lower else EdgeKeys(token, down, up)

    def edge_pair(self, edge: int, *, is_lower: bool) -> KeyPair:
        """The CURVE keys of an end, for an edge that is encrypted."""
        return curve_pair(self._derive("edge", str(edge), "lower" if is_lower else "upper"))
