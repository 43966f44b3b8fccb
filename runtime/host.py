"""Which host a process is on, as far as its neighbours care, and which addresses stay on it."""

import ipaddress
import os
from pathlib import Path


def this_host() -> str:
    """Equal for processes that see each other's memory files and socket files."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    spaces = [os.readlink(f"/proc/self/ns/{space}") for space in ("pid", "net", "mnt")]
    return " ".join([boot, *spaces, f"user {os.getuid()}"])


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this host's to itself alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
