"""Memory is the host's, as far as the limits of this process's containers go."""

from types import SimpleNamespace

import psutil
import pytest

from models.host_memory import available_bytes, total_bytes

from .made_up_cgroups import Cgroups

HOST = SimpleNamespace(total=256 << 30, available=200 << 30)


@pytest.fixture
def cgroups(tmp_path, monkeypatch) -> Cgroups:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: HOST)
    return Cgroups(tmp_path)


def memory(cgroups: Cgroups) -> tuple[int, int]:
    where = cgroups.root, cgroups.membership
    return total_bytes(*where), available_bytes(*where)


def test_containers_limit_counts_and_not_its_hosts_memory(cgroups):
    """A set of a quarter of the host's memory was decoded in a container of 4 GiB, and killed."""
    cgroups.join("0::/")
    cgroups.write("memory.max", str(4 << 30))
    cgroups.write("memory.current", str(1 << 30))
    assert memory(cgroups) == (4 << 30, 3 << 30)


def test_tightest_group_above_counts(cgroups):
    cgroups.join("0::/jobs/one")
    for group, limit, used in (
        ("jobs/one/", "9000", 100),
        ("jobs/", "max", 800),
        ("", "8000", 7500),
    ):
        cgroups.write(f"{group}memory.max", limit)
        cgroups.write(f"{group}memory.current", str(used))
    assert memory(cgroups) == (8000, 500)


def test_files_that_were_read_leave_room(cgroups):
    """As in the host's own figure. A container that reads its data is full of them."""
    cgroups.join("0::/")
    cgroups.write("memory.max", "1000")
    cgroups.write("memory.current", "990")
    cgroups.write("memory.stat", "anon 100\nfile 880\nshmem 80\ninactive_file 600\nactive_file 200")
    assert memory(cgroups) == (1000, 810)


def test_cgroups_version_1_have_a_tree_for_memory(cgroups):
    cgroups.join("4:memory:/box", "2:cpu,cpuacct:/x", "1:name=systemd:/")
    cgroups.write("memory/memory.limit_in_bytes", "9223372036854771712")  # none
    cgroups.write("memory/box/memory.limit_in_bytes", "1000")
    cgroups.write("memory/box/memory.usage_in_bytes", "900")
    cgroups.write("memory/box/memory.stat", "inactive_file 1\ntotal_inactive_file 300")
    assert memory(cgroups) == (1000, 400)


def test_host_counts_without_a_limit(cgroups):
    assert memory(cgroups) == (HOST.total, HOST.available)
    cgroups.join("0::/", "1:memory:/")
    cgroups.write("memory.max", "max")
    cgroups.write("memory/memory.limit_in_bytes", "9223372036854771712")
    assert memory(cgroups) == (HOST.total, HOST.available)


def test_group_over_its_limit_has_nothing_left(cgroups):
    cgroups.join("0::/")
    cgroups.write("memory.max", "1000")
    cgroups.write("memory.current", "1004")
    assert memory(cgroups) == (1000, 0)
