"""gloo's addresses are led through the proxy on the side that dials, and there alone."""

import socket
import struct

import pytest

from benchmarks.wan import proxied_store
from benchmarks.wan.proxied_store import ProxiedStore, dials, find_port


class Kept(dict):
    """A store in this process."""

    def set(self, key, value):
        self[key] = value

    def get(self, key):
        return self[key]


def published(port: int, host: str = "127.0.0.1") -> bytes:
    """A rank's addresses, as gloo puts them: other bytes around a sockaddr_in."""
    address = struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host)
    return b"\x02\0\0\0vm\x88\0" + address + bytes(120)


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, str, int]]:
    calls: list[tuple[str, str, int]] = []

    def ask_way(control: str, host: str, port: int) -> tuple[str, int]:
        calls.append((control, host, port))
        return "127.0.0.1", 0x8100

    monkeypatch.setattr(proxied_store, "ask_way", ask_way)
    return calls


def store(own: int, other: bytes) -> ProxiedStore:
    inner = Kept({"rank 1": other})
    made = ProxiedStore(inner, control="proxy")
    made.set("rank 0", published(own))
    return made


def test_dialling_side_reads_the_proxys_address(asked):
    own, other = 0x9020, 0x9110  # by the low byte, the first is the greater
    read = store(own, published(other)).get("rank 1")
    assert asked == [("proxy", "127.0.0.1", other)]
    assert read == published(0x8100)
    assert dials(struct.pack(">H", own), find_port(read)), "it must be the one that dials still"


def test_listening_side_reads_what_was_published(asked):
    assert store(0x9110, published(0x9020)).get("rank 1") == published(0x9020)
    assert not asked


def test_store_passes_its_own_address_and_all_else(asked):
    made = store(0x9020, published(0x9010, host="10.0.0.1"))
    assert made.get("rank 0") == published(0x9020)
    assert made.get("rank 1") == published(0x9010, host="10.0.0.1")
    assert not asked
