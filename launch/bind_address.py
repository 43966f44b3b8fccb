"""At which of this host's addresses a job's sockets listen.

Owns the choice. Other hosts are told a number, so that no name has to resolve there. Must not
import torch: every rank chooses for its own host.
"""

import ipaddress
import socket
import time
from collections.abc import Callable

import psutil

from launch.config import HostError
from launch.launcher import Launcher
from runtime.host import is_loopback

NAME_S = 60.0  # for a name to be known
TOLD_AFTER_S = 5.0
LOOK_EVERY_S = 0.5
LOOPBACK = "127.0.0.1"
AUTO = "auto"
EVERYWHERE = ("0.0.0.0", "::")  # who asks for these wants to be reached, and one address is enough
ELSEWHERE = ("192.0.2.1", "2001:db8::1")  # of documentation (RFC 5737, 3849): by the default route


def bind_address(bind: str, launcher: Launcher | None, *, say: Callable[[str], None]) -> str:
    """The numeric address to listen at.

    `bind` is an address or name of this host, an interface, a network such as 10.0.0.0/8, or
    "auto": loopback if all ranks are known to be here, else the address of the interface that
    faces MASTER_ADDR. Raises HostError if there is none, or it can't be told. Blocks up to NAME_S
    while MASTER_ADDR is no name that is known here; `say` is told so.
    """
    is_alone = launcher is None or bool(launcher.is_one_host)
    if bind == AUTO and is_alone:
        return LOOPBACK
    if bind == AUTO or bind in EVERYWHERE:
        return LOOPBACK if launcher is None else _facing(launcher, say)
    return _of_interface(bind) or _of_network(bind) or _of_name(bind)


def _facing(launcher: Launcher, say: Callable[[str], None]) -> str:
    """The address from which packets go to MASTER_ADDR; if that is this host under a name of its
    own, the address from which they go to other hosts."""
    facing = [way for address in _addresses_of(launcher, say) if (way := _way_to(address))]
    if not facing:
        raise HostError(
            f"no way from this host to MASTER_ADDR {launcher.master_addr}; see to the network, or"
            " give --bind an address of this host"
        )
    if all(is_loopback(address) for address in facing):
        # As Debian's /etc/hosts has it for a host's own name.
        facing = [way for place in ELSEWHERE if (way := _way_to(place))] or _public()
        if not facing:
            raise HostError(
                f"MASTER_ADDR {launcher.master_addr!r} is this host's loopback, and it has no"
                " other address; give --bind an address that the other hosts reach"
            )
    return facing[0]


def _addresses_of(launcher: Launcher, say: Callable[[str], None]) -> list[str]:
    """What MASTER_ADDR's name stands for. In a cluster it may become known only when rank 0 runs.
    Raises HostError."""
    name, port = launcher.master_addr, launcher.master_port
    began_s, was_said = time.monotonic(), False
    while True:
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)
            return [str(place[0]) for *_, place in found]
        except OSError as error:
            waited_s = time.monotonic() - began_s
            if waited_s > NAME_S:
                raise HostError(
                    f"MASTER_ADDR {name!r} is not known on this host ({error.strerror}); give an"
                    " address instead of a name"
                ) from error
            if waited_s > TOLD_AFTER_S and not was_said:
                was_said = True
                say(
                    f"MASTER_ADDR {name!r} is not known on this host ({error.strerror}); looking"
                    f" for it up to {NAME_S:.0f} s"
                )
        time.sleep(LOOK_EVERY_S)


def _way_to(address: str) -> str:
    """The address that packets to another would have as theirs; "" if there is no way."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # nothing is sent
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _addresses() -> dict[str, list[str]]:
    """This host's addresses by interface, numeric, without those of one link alone."""
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [
            found.address
            for found in addresses
            if found.family in families and not found.address.startswith("fe80:")
        ]
        for name, addresses in psutil.net_if_addrs().items()
    }


def _public() -> list[str]:
    every = [address for found in _addresses().values() for address in found]
    return [address for address in every if not is_loopback(address)]


def _of_interface(name: str) -> str:
    """The first address of an interface, IPv4 before IPv6; "" if it is none."""
    if name not in (interfaces := _addresses()):
        return ""
    if not interfaces[name]:
        raise HostError(f"bind {name!r}: this interface has no address; give another")
    return min(interfaces[name], key=lambda address: ":" in address)


def _of_network(text: str) -> str:
    """This host's address in a network; "" if the text is none."""
    if "/" not in text:
        return ""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise HostError(
            f"bind {text!r} is no network ({error}); give one such as 10.0.0.0/8"
        ) from error
    every = [address for found in _addresses().values() for address in found]
    inside = [address for address in every if ipaddress.ip_address(address) in network]
    if not inside:
        raise HostError(
            f"bind {text}: this host has no address in that network, only {' '.join(every)}"
        )
    return inside[0]


def _of_name(name: str) -> str:
    """The address of a name or number, if it is this host's."""
    try:
        (family, _, _, _, place), *_ = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
        with socket.socket(family) as probe:
            probe.bind(place)
    except (OSError, UnicodeError) as error:  # the latter for a label that is empty or too long
        reason = error.strerror if isinstance(error, OSError) else error.__cause__
        raise HostError(
            f"bind {name!r} is no address of this host ({reason or error}); give one that is,"
            " such as 127.0.0.1, an interface, or a network such as 10.0.0.0/8"
        ) from error
    return str(place[0])
