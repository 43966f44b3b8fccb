"""Leads gloo's connections through a proxy, by the addresses that its ranks publish.

Owns the rewriting of those addresses in the store that the ranks meet in. gloo publishes the
socket address at which a rank listens, as bytes. Of two ranks the one with the greater address
dials; so it alone reads the proxy's in place of the other's, which must be the lesser one still:
gloo compares ports by their low byte first, and the proxy's ports have 0 there.
"""

import socket
from datetime import timedelta

import torch.distributed as dist

from benchmarks.wan.proxy import LOOPBACK, ask_way

FAMILY = socket.AF_INET.to_bytes(2, "little")  # sockaddr_in on Linux: family, port, address
HOST = socket.inet_aton(LOOPBACK)


class ProxiedStore(dist.Store):
    """One rank's store. Only IPv4 addresses on loopback are led through; all else passes."""

    def __init__(self, inner: dist.Store, *, control: str) -> None:
        """`control` is the proxy's, see benchmarks.wan.proxy."""
        super().__init__()
        self._inner = inner
        self._control = control
        self._own: bytes | None = None

    def set(self, key: str, value: bytes | str) -> None:
        """Publish; this rank's own address is remembered."""
        if isinstance(value, bytes):
            self._own = find_port(value) or self._own
        self._inner.set(key, value)  # type: ignore[arg-type]

    def get(self, key: str) -> bytes:
        """Another rank's address as this rank is to dial it."""
        value: bytes = self._inner.get(key)
        port = find_port(value)
        if port is None or self._own is None or not dials(self._own, port):
            return value
        _, begin = ask_way(self._control, LOOPBACK, int.from_bytes(port, "big"))
        return value.replace(FAMILY + port + HOST, FAMILY + begin.to_bytes(2, "big") + HOST)

    def add(self, key: str, amount: int) -> int:
        count: int = self._inner.add(key, amount)
        return count

    def check(self, keys: list[str]) -> bool:
        found: bool = self._inner.check(keys)
        return found

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        self._inner.wait(keys, timeout) if timeout is not None else self._inner.wait(keys)

    def set_timeout(self, timeout: timedelta) -> None:
        self._inner.set_timeout(timeout)


def find_port(value: bytes) -> bytes | None:
    """The port, as it stands there, of the first loopback socket address in `value`, if any."""
    at = value.find(HOST)
    while at >= 0:
        if value[max(0, at - 4) : at - 2] == FAMILY:
            return value[at - 2 : at]
        at = value.find(HOST, at + 1)
    return None


def dials(own: bytes, other: bytes) -> bool:
    """Whether the rank at port `own` dials the one at `other`: gloo's own comparison."""
    return int.from_bytes(own, "little") > int.from_bytes(other, "little")
