"""Network namespaces in the place of hosts, joined by a switch that can be cut.

    sudo python -m benchmarks.hosts.namespaces up 2      prints how to run a command on each
    sudo python -m benchmarks.hosts.namespaces down

Owns the namespaces and what runs in them. A host has an address and a name of its own, which no
other host can look up; disks are this machine's, but for directories that are each host's own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

NETNS = Path("/run/netns")
HOLDER = ("sleep", "2000000000")  # by which its host's namespaces are found
END_S = 10.0
HOW = "as root on Linux, with iproute2 and util-linux"


class NoNamespaces(Exception):
    """Namespaces can't be made here."""


def why_not() -> str:
    """Why namespaces can't be made here; "" if they can."""
    if os.geteuid():
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "nsenter", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"no {' '.join(missing)} here (iproute2, util-linux)"
    name = f"loco-try-{os.getpid()}"
    make, remove = (["ip", "netns", verb, name] for verb in ("add", "del"))
    for command in (["unshare", "--net", "--mount", "--uts", "true"], make, remove):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return "the kernel makes no network namespaces here"
    return ""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One namespace. `name` is its host's, `address` numeric."""

    name: str
    namespace: str
    address: str

    @property
    def enter(self) -> list[str]:
        """What runs the command behind it on this host."""
        holder = next(iter(self.processes(held=True)))
        return ["nsenter", f"--target={holder}", "--mount", "--net", "--uts"]

    def path(self, path: Path) -> Path:
        """A path of this host as it is seen from outside."""
        holder = next(iter(self.processes(held=True)))
        return Path(f"/proc/{holder}/root") / path.relative_to("/")

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: IO[bytes]
    ) -> "subprocess.Popen[bytes]":
        """Start a command on this host, in a session of its own."""
        return subprocess.Popen(
            [*self.enter, *command],
            env=dict(env),
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def processes(self, *, held: bool = False) -> list[int]:
        """All that run here; or those that hold the host's namespaces."""
        pids = [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]
        return [pid for pid in pids if _is_holder(pid) == held]

    def hold(self, own_dirs: Sequence[Path]) -> "subprocess.Popen[bytes]":
        """Make its namespaces, in which it knows localhost and its own name."""
        script = [
            f"hostname {self.name}",
            f"printf '127.0.0.1 localhost\\n{self.address} {self.name}\\n' > /run/{self.namespace}",
            f"mount --bind /run/{self.namespace} /etc/hosts",
            f"rm /run/{self.namespace}",
            *(f"mount -t tmpfs none {path}" for path in own_dirs),
            f"echo && exec {' '.join(HOLDER)}",
        ]
        enter = ["nsenter", f"--net={NETNS / self.namespace}", "unshare", "--mount", "--uts"]
        held = subprocess.Popen(
            [*enter, "sh", "-ec", "\n".join(script)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert held.stdout is not None
        with held.stdout:
            if not held.stdout.readline():
                held.wait()
                raise NoNamespaces(f"{self.name} has no namespaces of its own for mounts and names")
        until_s = time.monotonic() + END_S
        while not self.processes(held=True):  # the shell has yet to become what they are found by
            if time.monotonic() > until_s:
                raise NoNamespaces(f"{self.name} has lost the process that holds its namespaces")
            time.sleep(0.01)
        return held

    def kill(self) -> None:
        """End all that runs here at once, as a power cut would, and wait until it has."""
        until_s = time.monotonic() + END_S
        while (pids := self.processes()) and time.monotonic() < until_s:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


class Hosts:
    """Some hosts on one network, for as long as the context lasts.

    Raises NoNamespaces if they can't be made.
    """

    def __init__(
        self,
        num_hosts: int,
        *,
        ipv6: bool = False,
        own_dirs: Sequence[Path] = (),
        name: str | None = None,
    ) -> None:
        """`ipv6`: the hosts have no other addresses. `own_dirs` are empty on each host, and seen by
        no other. `name` begins the namespaces' names."""
        if reason := why_not():
            raise NoNamespaces(f"{reason}; run {HOW}")
        self._name = name or f"loco-{os.getpid()}"
        self._switch = f"{self._name}-switch"
        self.hosts = [
            Host(
                name=f"host-{index}",
                namespace=f"{self._name}-{index}",
                address=f"fd77::{index + 1}" if ipv6 else f"10.77.0.{index + 1}",
            )
            for index in range(num_hosts)
        ]
        self._ipv6 = ipv6
        self._own_dirs = own_dirs
        self._holders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def up(self) -> None:
        """Make the hosts."""
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for index, host in enumerate(self.hosts):
            _ip("netns", "add", host.namespace)
            inside = ["-n", host.namespace]
            _ip(*inside, "link", "set", "lo", "up")
            port = ["peer", "name", f"port{index}", "netns", self._switch]
            _ip(*inside, "link", "add", "eth0", "type", "veth", *port)
            suffix = ["/64", "nodad"] if self._ipv6 else ["/24"]
            _ip(*inside, "addr", "add", host.address + suffix[0], "dev", "eth0", *suffix[1:])
            _ip(*inside, "link", "set", "eth0", "up")
            _ip("-n", self._switch, "link", "set", f"port{index}", "master", "bridge", "up")
            self._holders.append(host.hold(self._own_dirs))

    def down(self) -> None:
        """End all that runs on the hosts, and remove them."""
        for host in self.hosts:
            if (NETNS / host.namespace).exists():
                host.kill()
                for holder in host.processes(held=True):
                    os.kill(holder, signal.SIGKILL)
                _ip("netns", "del", host.namespace)
        if (NETNS / self._switch).exists():
            _ip("netns", "del", self._switch)
        for held in self._holders:
            held.wait()

    def cut(self, index: int) -> None:
        """Take a host off the network."""
        _ip("-n", self._switch, "link", "set", f"port{index}", "down")

    def mend(self, index: int) -> None:
        """Let it back in."""
        _ip("-n", self._switch, "link", "set", f"port{index}", "up")


def _is_holder(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1] == [
            word.encode() for word in HOLDER
        ]
    return False


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def main(argv: list[str]) -> int:
    """Make two hosts or more that stay until they are taken down."""
    try:
        match argv:
            case ["up", number] if number.isdigit():
                hosts = Hosts(int(number), name="loco")
                hosts.up()
                for host in hosts.hosts:
                    print(f"{host.address}: {' '.join(host.enter)} COMMAND ...")
            case ["down"]:
                num_hosts = sum(path.name[5:].isdigit() for path in NETNS.glob("loco-*"))
                Hosts(num_hosts, name="loco").down()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except NoNamespaces as error:
        print(f"namespaces: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
