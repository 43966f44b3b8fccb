"""Which host a process is on, as far as its neighbours care."""

import os
from pathlib import Path


def this_host() -> str:
    """Equal for processes that see each other's memory files and socket files."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    spaces = [os.readlink(f"/proc/self/ns/{space}") for space in ("pid", "net", "mnt")]
    return " ".join([boot, *spaces, f"user {os.getuid()}"])
