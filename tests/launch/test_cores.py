"""Cores are those that a process may run on, as far as its containers' quotas go."""

import math
import os

import pytest

from launch.cores import quota, usable_cores

from ..models.made_up_cgroups import Cgroups


class Quotas(Cgroups):
    """Control groups, and what is read of them."""

    def quota(self) -> float:
        return quota(self.root, self.membership)

    def cores(self) -> int:
        return usable_cores(self.root, self.membership)


@pytest.fixture
def cgroups(tmp_path, monkeypatch) -> Quotas:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    return Quotas(tmp_path)


def test_quota_of_half_a_core_is_one_thread(cgroups):
    """In a container with half a core, two threads were started and throttled."""
    cgroups.join("0::/")
    cgroups.write("cpu.max", "50000 100000")
    assert (cgroups.quota(), cgroups.cores()) == (0.5, 1)


def test_tightest_group_above_counts(cgroups):
    cgroups.join("0::/jobs/one")
    cgroups.write("jobs/one/cpu.max", "max 100000")
    cgroups.write("jobs/cpu.max", "250000 100000")
    assert (cgroups.quota(), cgroups.cores()) == (2.5, 2)


def test_cgroups_version_1_have_a_tree_for_cpu_time(cgroups):
    cgroups.join("4:memory:/x", "2:cpu,cpuacct:/box", "1:name=systemd:/")
    cgroups.write("cpu/box/cpu.cfs_quota_us", "150000")
    cgroups.write("cpu/box/cpu.cfs_period_us", "50000")
    assert (cgroups.quota(), cgroups.cores()) == (3.0, 3)


def test_quota_is_found_without_the_hosts_path_in_a_container(cgroups):
    cgroups.join("1:cpu:/docker/0123")
    cgroups.write("cpu/cpu.cfs_quota_us", "100000")
    cgroups.write("cpu/cpu.cfs_period_us", "100000")
    assert cgroups.cores() == 1


def test_affinity_counts_without_a_quota(cgroups):
    assert (cgroups.quota(), cgroups.cores()) == (math.inf, 4)
    cgroups.join("0::/", "1:cpu:/")
    cgroups.write("cpu.max", "max 100000")
    cgroups.write("cpu/cpu.cfs_quota_us", "-1")
    cgroups.write("cpu/cpu.cfs_period_us", "100000")
    assert (cgroups.quota(), cgroups.cores()) == (math.inf, 4)


def test_quota_beyond_the_affinity_is_no_limit(cgroups):
    cgroups.join("0::/")
    cgroups.write("cpu.max", "1600000 100000")
    assert cgroups.cores() == 4
