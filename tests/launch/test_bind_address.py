"""The address at which a host's sockets listen: numeric, and reachable from where it must be."""

import socket
from types import SimpleNamespace

import pytest

from launch import bind_address as module
from launch.bind_address import bind_address
from launch.config import HostError
from launch.launcher import Launcher

HERE = {
    "lo": ["127.0.0.1", "::1"],
    "eth0": ["10.0.0.7", "2001:db8:7::7", "fe80::7%eth0"],
    "ib0": ["192.168.3.7"],
    "wlan0": [],
}


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """A host with these addresses, whose packets leave by eth0, and which knows some names."""

    def addresses():
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return {
            name: [SimpleNamespace(family=family[":" in a], address=a) for a in found]
            for name, found in HERE.items()
        }

    names = {"node0": "10.0.0.1", "itself": "127.0.1.1", "localhost": "127.0.0.1"}
    true_getaddrinfo = socket.getaddrinfo

    def getaddrinfo(name, port, *rest, **how):
        if name == "nowhere":
            raise socket.gaierror(-2, "Name or service not known")
        return true_getaddrinfo(names.get(name, name), port, *rest, **how)

    def way_to(address):
        if address.startswith("127."):
            return "127.0.0.1"
        return "2001:db8:7::7" if ":" in address else "10.0.0.7"

    monkeypatch.setattr(module.psutil, "net_if_addrs", addresses)
    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(module, "_way_to", way_to)
    return monkeypatch


def listen_at(bind: str, launcher: Launcher | None) -> str:
    return bind_address(bind, launcher, say=lambda text: None)


def launcher(master: str = "node0", *, local: int | None = 2) -> Launcher:
    return Launcher(
        rank=0, world_size=4, local_world_size=local, master_addr=master, master_port=29500
    )


def test_job_on_one_host_listens_on_loopback_unless_told_otherwise():
    assert listen_at("auto", None) == "127.0.0.1"
    assert listen_at("auto", launcher(local=4)) == "127.0.0.1"
    assert listen_at("0.0.0.0", None) == "127.0.0.1"


@pytest.mark.parametrize("asked", ["auto", "0.0.0.0", "::"])
@pytest.mark.parametrize("master", ["node0", "10.0.0.1"])
def test_other_hosts_are_told_the_address_that_faces_the_master(asked, master):
    """With 0.0.0.0 they were told a name, which did not resolve there: no step for 760 s."""
    assert listen_at(asked, launcher(master)) == "10.0.0.7"


def test_ipv6_is_an_address_like_others():
    assert listen_at("auto", launcher("fd00::1")) == "2001:db8:7::7"


def test_masters_own_name_may_be_its_loopback():
    """As Debian has it."""
    assert listen_at("auto", launcher("itself")) == "10.0.0.7"


def test_ranks_whose_hosts_are_not_known_may_all_be_here():
    assert listen_at("auto", launcher("localhost", local=None)) == "127.0.0.1"
    assert listen_at("auto", launcher("127.0.0.1", local=None)) == "127.0.0.1"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("eth0", "10.0.0.7"),
        ("ib0", "192.168.3.7"),
        ("192.168.0.0/16", "192.168.3.7"),
        ("2001:db8::/32", "2001:db8:7::7"),
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
    ],
)
def test_interface_network_or_address_can_be_asked_for(asked, found):
    assert listen_at(asked, launcher()) == found


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("wlan0", "bind 'wlan0': this interface has no address"),
        ("172.16.0.0/12", "no address in that network, only 127.0.0.1 ::1 10.0.0.7"),
        ("10.0.0.0/99", "is no network"),
        ("192.0.2.9", "bind '192.0.2.9' is no address of this host"),
        ("nowhere", "bind 'nowhere' is no address of this host"),
        ("node..1", r"bind 'node..1' is no address of this host \(label empty or too long\)"),
        ("n" * 64, r"bind 'n+' is no address of this host \(label too long\)"),
    ],
)
def test_what_is_none_of_this_hosts_is_refused(asked, why):
    with pytest.raises(HostError, match=why):
        listen_at(asked, launcher())


@pytest.fixture
def clock(host):
    """Time that passes only when it is waited for; its list has each wait's end."""
    waits = [0.0]
    host.setattr(module.time, "monotonic", lambda: waits[-1])
    host.setattr(module.time, "sleep", lambda seconds: waits.append(waits[-1] + seconds))
    return waits


def test_master_whose_name_is_not_known_here_is_waited_for_and_named(clock):
    said: list[str] = []
    with pytest.raises(HostError, match=r"MASTER_ADDR 'nowhere' is not known.*give an address"):
        bind_address("auto", launcher("nowhere"), say=said.append)
    assert module.NAME_S < clock[-1] <= module.NAME_S + 1
    assert said == [
        "MASTER_ADDR 'nowhere' is not known on this host (Name or service not known); looking for"
        " it up to 60 s"
    ]


def test_master_whose_name_becomes_known_is_no_trouble(host, clock):
    true_getaddrinfo = socket.getaddrinfo

    def getaddrinfo(name, *rest, **how):
        return true_getaddrinfo("node0" if clock[-1] > 2 else name, *rest, **how)

    host.setattr(module.socket, "getaddrinfo", getaddrinfo)
    assert listen_at("auto", launcher("nowhere")) == "10.0.0.7"


def test_host_without_a_way_to_the_master_says_so(host):
    host.setattr(module, "_way_to", lambda address: "")
    with pytest.raises(HostError, match=r"no way from this host to MASTER_ADDR node0; .*--bind"):
        listen_at("auto", launcher())


def test_master_that_has_but_a_loopback_can_not_be_reached(host):
    host.setattr(module, "_way_to", lambda address: "127.0.0.1" if "127" in address else "")
    host.setattr(module, "_addresses", lambda: {"lo": ["127.0.0.1"]})
    with pytest.raises(HostError, match=r"is this host's loopback.*--bind"):
        listen_at("auto", launcher("itself"))
