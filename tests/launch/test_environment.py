"""What a process finds around itself, and whether all workers run on its host."""

import pytest
import torch

from launch import environment
from launch.config import ConfigError
from launch.environment import Environment
from models import host_memory

from .environs import TORCHRUN


@pytest.fixture
def process(monkeypatch):
    """A process with other cores, GPUs and memory than this one, and no launcher."""
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "usable_cores", lambda: 7)
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda pid: set(range(7)))
    monkeypatch.setattr(environment, "visible_gpus", lambda: ("0", "MIG-a", "MIG-b"))
    monkeypatch.setattr(environment, "processor", lambda: "7 cores, 3 GPUs")
    monkeypatch.setattr(host_memory, "total_bytes", lambda: 4 << 30)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    return monkeypatch


def test_environment_without_a_launcher_is_this_machine(process):
    assert Environment.from_process() == Environment(
        world_size=None,
        local_world_size=None,
        cores=7,
        gpus=3,
        has_nccl=True,
        has_mig=True,
        processor="7 cores, 3 GPUs",
        memory_bytes=4 << 30,
    )


def test_environment_of_a_rank_has_the_size_of_the_job(process):
    for name, value in TORCHRUN.items():
        process.setenv(name, value)
    found = Environment.from_process()
    assert (found.world_size, found.local_world_size) == (4, 2)
    assert not found.is_one_host


def test_half_a_launchers_variables_are_refused(process):
    process.setenv("WORLD_SIZE", "4")
    process.setenv("RANK", "0")
    with pytest.raises(ConfigError):
        Environment.from_process()


def facts(host: str, **changes) -> dict[str, object]:
    usual = {
        "host": host,
        "cores": 8,
        "cpus": list(range(8)),
        "gpus": 2,
        "has_nccl": True,
        "has_mig": False,
        "processor": "AVX512",
        "memory_bytes": 64e9,
    }
    return usual | changes


def test_hosts_count_as_the_one_with_the_least_for_each_rank():
    """One host with one rank and one with three, as many cores: threads followed rank 0's."""
    ranks = [facts("a"), *3 * [facts("b", memory_bytes=48e9)]]
    found = Environment.of_ranks(ranks)
    assert (found.world_size, found.local_world_size) == (4, 3)
    assert found.cores // 3 == 8 // 3
    assert found.gpus == 2
    assert found.memory_bytes == pytest.approx(48e9)
    assert not found.is_one_host
    assert found.remarks == ()


def test_ranks_that_are_bound_to_cores_of_their_own_use_all_of_them():
    """srun binds each task to its --cpus-per-task: four cores each were taken for four in all, and
    each rank had one thread."""
    bound = [facts("a", cores=2, cpus=[2 * rank, 2 * rank + 1]) for rank in range(4)]
    assert Environment.of_ranks(bound).cores == 4 * 2
    shared = 4 * [facts("a", cores=4, cpus=list(range(4)))]
    assert Environment.of_ranks(shared).cores == 4 * 1


def test_quota_is_for_all_ranks_of_a_container():
    limited = 2 * [facts("a", cores=4, cpus=list(range(16)))]
    assert Environment.of_ranks(limited).cores == 2 * 2


def test_ranks_on_one_host_are_found_to_be():
    assert Environment.of_ranks(2 * [facts("a")]).is_one_host


def test_processors_of_several_kinds_are_told():
    found = Environment.of_ranks([facts("a"), facts("b", processor="AMX")])
    assert found.processor == "AVX512"
    (remark,) = found.remarks
    assert "AVX512; AMX" in remark


def test_rank_says_of_its_machine_what_the_environment_is_made_of(process):
    assert Environment.of_ranks([environment.facts_here()]).cores == 7


@pytest.mark.parametrize(
    ("world", "local", "is_one"), [(None, None, True), (4, 4, True), (4, 2, False), (4, 1, False)]
)
def test_one_host_has_all_ranks_or_no_launcher(world, local, is_one):
    found = Environment(world_size=world, local_world_size=local, cores=1, gpus=0)
    assert found.is_one_host is is_one
