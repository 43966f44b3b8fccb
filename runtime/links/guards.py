"""What a receiver checks before it believes a message: that it is whole, and whose it is.

Owns the two guards of an edge. Where only this user's processes can speak, checksums guard against
damage; on a network every message has a keyed MAC, against those who could write to the wire.
"""

import hmac
from collections.abc import Callable, Sequence
from typing import Protocol

import xxhash
from blake3 import blake3
from torch import Tensor

from runtime.block import Payload
from runtime.links.tensor_bytes import tensor_bytes
from runtime.state.retention import CHECKSUM_BYTES, Hash
from runtime.trust.keys import EdgeKeys, derive

MAC_BYTES = CHECKSUM_BYTES


MakeHash = Callable[[], Hash]


def digest_of(make: MakeHash, payload: Sequence[Tensor]) -> int:
    """Over the tensors' bytes in order, as `Data.checksum` has it."""
    digest = make()
    for tensor in payload:
        digest.update(tensor_bytes(tensor))
    return int.from_bytes(digest.digest())


class Guard(Protocol):
    """How one end of an edge signs what it sends, and checks what it receives."""

    @property
    def size(self) -> int:
        """Bytes of a header's signature."""

    @property
    def makes_hash(self) -> MakeHash | None:
        """Of the tensors that are sent; None if they have none."""

    def sign(self, body: bytes, *, is_hello: bool) -> bytes:
        """The signature of a header that is sent."""

    def is_signed(self, body: bytes, signature: bytes, *, is_hello: bool) -> bool:
        """Whether a received header has the signature of one of this kind."""

    def fits(self, payload: Payload, checksum: int) -> bool:
        """Whether received tensors are those that a header belongs to."""


class Checksums:
    """xxh3-64: of a header seeded by the edge's fingerprint, so that no other run can be heard; a
    hello's is not, for it brings the fingerprint along, to be told apart from damage."""

    size = 8

    def __init__(self, fingerprint: int, *, covers_tensors: bool) -> None:
        self._fingerprint = fingerprint
        self.makes_hash: MakeHash | None = xxhash.xxh3_64 if covers_tensors else None

    def sign(self, body: bytes, *, is_hello: bool) -> bytes:
        return xxhash.xxh3_64_digest(body, seed=0 if is_hello else self._fingerprint)

    def is_signed(self, body: bytes, signature: bytes, *, is_hello: bool) -> bool:
        return self.sign(body, is_hello=is_hello) == signature

    def fits(self, payload: Payload, checksum: int) -> bool:
        return self.makes_hash is None or digest_of(self.makes_hash, payload) == checksum


class Macs:
    """Keyed blake3, 128 bits: a key for each direction, and of each one for headers, and one for
    tensors, whose MAC a header holds. So it covers run, edge, stream, step and both generations.
    """

    size = MAC_BYTES

    def __init__(self, keys: EdgeKeys) -> None:
        self._sent, self._received = (derive(k, "headers") for k in (keys.sent, keys.received))
        tensors_sent, tensors_received = (
            derive(key, "tensors") for key in (keys.sent, keys.received)
        )
        self.makes_hash: MakeHash = lambda: Mac(tensors_sent)
        self._makes_received: MakeHash = lambda: Mac(tensors_received)

    def sign(self, body: bytes, *, is_hello: bool) -> bytes:
        del is_hello
        return blake3(body, key=self._sent).digest(MAC_BYTES)

    def is_signed(self, body: bytes, signature: bytes, *, is_hello: bool) -> bool:
        del is_hello
        return hmac.compare_digest(blake3(body, key=self._received).digest(MAC_BYTES), signature)

    def fits(self, payload: Payload, checksum: int) -> bool:
        return digest_of(self._makes_received, payload) == checksum


class Mac:
    """A Hash of blake3 under a key."""

    def __init__(self, key: bytes) -> None:
        self._digest = blake3(key=key)
        self.update = self._digest.update

    def digest(self) -> bytes:
        return self._digest.digest(MAC_BYTES)
