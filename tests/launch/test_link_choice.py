"""Which link is chosen, and what is said of one that can't be used."""

import pytest

from launch.config import ConfigError, RunConfig
from launch.environment import Environment
from launch.link_choice import choose_link

from .runs import light

HERE = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)


def gpus(num_gpus: int, **facts: bool) -> Environment:
    machine = {"world_size": None, "local_world_size": None, "cores": 2, "gpus": num_gpus}
    return Environment(**(machine | {"has_nccl": True} | facts))


@pytest.mark.parametrize(
    ("environment", "device", "why"),
    [
        (HERE, "cpu", "no GPU is seen here; use --link auto"),
        (gpus(8), "cpu", "the workers compute on CPUs; use --device cuda, or --link auto"),
        (gpus(8, has_nccl=False), "cuda", "this torch was built without NCCL; install one that"),
        (gpus(4, has_mig=True), "cuda", "these are instances of MIG, which reach no other"),
        (gpus(3), "cuda", "4 workers share 3 of a host; give at most that many --workers"),
    ],
)
def test_what_stands_against_nccl_is_told_with_a_remedy(environment, device, why):
    config = RunConfig(link="nccl", workers=4)
    with pytest.raises(ConfigError) as refused:
        choose_link(config, environment, device=device, workers=4)
    told = str(refused.value)
    assert told.startswith(f"link nccl moves tensors between GPUs, one a worker: {why}")


def test_nccl_is_taken_if_each_worker_has_a_gpu():
    config = RunConfig(link="nccl", workers=4, insecure_network=True)
    assert choose_link(config, gpus(4), device="cuda", workers=4) == "nccl"
    two = Environment(world_size=4, local_world_size=2, cores=2, gpus=2, has_nccl=True)
    assert choose_link(config, two, device="cuda", workers=4) == "nccl"


def test_what_is_left_open_follows_from_the_hosts():
    for asked, here, between in (
        ("auto", "shm", "auto"),
        ("zmq", "zmq-ipc", "zmq-tcp"),
        ("zmq-tcp", "zmq-tcp", "zmq-tcp"),
        ("gloo", "gloo", "gloo"),
    ):
        config = RunConfig(link=asked, insecure_network=True)
        found = [choose_link(config, hosts, device="cpu", workers=4) for hosts in (HERE, TWO_HOSTS)]
        assert found == [here, between]


def test_nccl_is_refused_before_any_worker_starts():
    with pytest.raises(ConfigError, match="no GPU is seen here; use --link auto"):
        light(link="nccl")


TWO_HOSTS = Environment(world_size=4, local_world_size=2, cores=2, gpus=0)


@pytest.mark.parametrize("link", ["gloo", "nccl"])
def test_groups_between_hosts_are_for_networks_that_are_trusted(link):
    with pytest.raises(ConfigError, match=rf"link {link} knows no one.*--insecure-network"):
        choose_link(RunConfig(link=link), TWO_HOSTS, device="cpu", workers=4)


@pytest.mark.parametrize("link", ["gloo", "nccl"])
def test_groups_do_not_encrypt(link):
    config = RunConfig(link=link, encrypt_tensors=True)
    with pytest.raises(ConfigError, match=f"link {link} can't encrypt tensors; use --link zmq"):
        choose_link(config, HERE, device="cpu", workers=4)
