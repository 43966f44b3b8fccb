"""What a stranger who sat on the wire has of an earlier run: its announcement, and its traffic.

Owns the recording. The store is read as anybody can; the traffic is taken from the loopback device,
for which the recorder must be root. Where it is not, there is none, and the recording says so.
"""

import contextlib
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgpack

from benchmarks.security.sight import Listening

MOST_BYTES = 1 << 18  # of each connection
IP_PROTOCOL_TCP = 6


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """`store` is by key; `streams` are what was sent to each kind of socket ("coordinator",
    "edge"), a list of connections from their first byte on."""

    store: Mapping[str, bytes] = field(default_factory=dict)
    streams: Mapping[str, list[bytes]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.write_bytes(msgpack.packb({"store": self.store, "streams": self.streams}))

    @classmethod
    def read(cls, path: str) -> "Earlier":
        """What was recorded; nothing if nothing was."""
        if not path or not Path(path).exists():
            return cls()
        return cls(**msgpack.unpackb(Path(path).read_bytes()))


class Wire:
    """Listens to what is sent to ports on loopback."""

    def __init__(self) -> None:
        """Raises PermissionError if this process may not."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self._flows: dict[tuple[int, int], dict[int, bytes]] = {}
        self._first: dict[tuple[int, int], int] = {}

    def record(self, until: Callable[[], bool]) -> None:
        """Listen until that is so."""
        while not until():
            with contextlib.suppress(TimeoutError):
                packet, address = self._socket.recvfrom(1 << 17)
                if address[2] != socket.PACKET_OUTGOING:  # on loopback each is seen twice
                    self.take(packet)
        self._socket.close()

    def take(self, packet: bytes) -> None:
        """Note one IPv4 packet."""
        header = (packet[0] & 15) * 4
        if len(packet) < header + 20 or packet[9] != IP_PROTOCOL_TCP:
            return
        source, target, sequence = struct.unpack_from(">HHI", packet, header)
        flow, flags = (source, target), packet[header + 13]
        if flags & 2:  # SYN
            self._first[flow] = sequence + 1
            self._flows[flow] = {}
        payload = packet[header + (packet[header + 12] >> 4) * 4 :]
        if payload and flow in self._first:
            offset = (sequence - self._first[flow]) & 0xFFFFFFFF
            if offset < MOST_BYTES:
                self._flows[flow].setdefault(offset, payload[:MOST_BYTES])

    def sent_to(self, ports: set[int]) -> list[bytes]:
        """What each connection sent to one of the ports, up to the first gap."""
        found = []
        for (_, target), parts in self._flows.items():
            stream = b""
            for offset, payload in sorted(parts.items()):
                if offset > len(stream):
                    break
                stream += payload[len(stream) - offset :]
            if target in ports and stream:
                found.append(stream)
        return found


def streams_of(
    wire: Wire, coordinator: tuple[Listening, ...], edges: Mapping[int, tuple[Listening, ...]]
) -> dict[str, list[bytes]]:
    """What was recorded, by the kind of socket that it was sent to."""
    edge_ports = {port for found in edges.values() for _, port in found}
    return {
        "coordinator": wire.sent_to({port for _, port in coordinator}),
        "edge": wire.sent_to(edge_ports),
    }
