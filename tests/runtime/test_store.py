"""The job's store, which may be slow, away, and somewhere else: no call waits for it for long."""

import socket
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore, TCPStore

from runtime.program import StoreAddress
from runtime.store import SharedStore, StoreAway, host_store, listen, open_store


def test_what_is_put_is_found():
    store = HashStore()
    SharedStore(lambda: store).put("key", b"value")
    assert SharedStore(lambda: store).find("key") == b"value"
    assert SharedStore(lambda: store).find("another") is None


def test_store_that_does_not_answer_is_away_and_the_next_call_connects_anew():
    """A cut network holds a call for as long as it is cut, and a worker's loop with it."""
    cut = threading.Event()
    slow = SimpleNamespace(check=lambda keys: not cut.wait(20.0))
    good = HashStore()
    good.set("key", "value")
    stores = [slow, good]
    shared = SharedStore(lambda: stores.pop(0))
    began_s = time.monotonic()
    with pytest.raises(StoreAway, match="no answer in 0 s"):
        shared.find("key", timeout_s=0.05)
    assert time.monotonic() - began_s < 10.0
    assert shared.find("key") == b"value"
    cut.set()


def test_store_that_fails_is_away_and_the_next_call_connects_anew():
    def fail(keys):
        raise RuntimeError("Connection reset by peer")

    stores = [SimpleNamespace(check=fail), HashStore()]
    shared = SharedStore(lambda: stores.pop(0))
    with pytest.raises(StoreAway, match="Connection reset by peer"):
        shared.find("key")
    assert shared.find("key") is None


def test_store_that_can_not_be_connected_is_away():
    def connect():
        raise RuntimeError("nobody listens")

    with pytest.raises(StoreAway, match="nobody listens"):
        SharedStore(connect).put("key", b"value")


def test_calls_of_several_threads_follow_each_other():
    inside, most = [0], [0]

    def check(keys):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.005)
        inside[0] -= 1
        return False

    shared = SharedStore(lambda: SimpleNamespace(check=check))
    threads = [threading.Thread(target=shared.find, args=("key",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


# Hosting it -------------------------------------------------------------------------------------


@pytest.fixture(params=["127.0.0.1", "::1"])
def address(request) -> StoreAddress:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as free:
        port = free.getsockname()[1]
    return StoreAddress(host=request.param, port=port)


def test_store_is_hosted_at_its_address_alone(address):
    store = host_store(address)
    shared = SharedStore(lambda: open_store(address))
    shared.put("key", b"value")
    assert shared.find("key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", address.port), timeout=5.0)
    del store


def test_name_that_is_loopback_at_its_own_host_is_reached_from_others(monkeypatch):
    """Debian's /etc/hosts gives a host's own name as 127.0.1.1: the store listened there, and every
    other host was refused, for 600 s."""
    found = socket.getaddrinfo("127.0.1.1", 0, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listen(StoreAddress(host="host-a", port=0)) as everywhere:
        assert everywhere.getsockname()[0] == "0.0.0.0"
    for host in ("localhost", "127.0.1.1"):
        with listen(StoreAddress(host=host, port=0)) as here:
            assert here.getsockname()[0] == "127.0.1.1"


def test_store_that_was_lost_is_found_again_when_another_hosts_it(address):
    store = host_store(address)
    shared = SharedStore(lambda: open_store(address))
    shared.put("key", b"value")
    del store
    with pytest.raises(StoreAway):
        shared.find("key")
    again = host_store(address)
    assert shared.find("key") is None
    del again


def test_port_that_is_taken_is_an_error(address):
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with (
        socket.create_server((address.host, address.port), family=family),
        pytest.raises(OSError, match="in use"),
    ):
        host_store(address)


def test_file_is_a_store_too(tmp_path):
    address = StoreAddress(file=str(tmp_path / "store"))
    SharedStore(lambda: open_store(address)).put("key", b"value")
    assert SharedStore(lambda: open_store(address)).find("key") == b"value"


def test_launchers_store_is_only_joined():
    theirs = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))
    address = StoreAddress(host="127.0.0.1", port=theirs.port, is_launchers=True)
    SharedStore(lambda: open_store(address)).put("key", b"value")
    assert theirs.get("key") == b"value"
