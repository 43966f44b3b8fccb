"""Which link is chosen, and what is said if it is not the one that was asked for."""

import pytest

from launch.config import ConfigError, RunConfig
from launch.environment import Environment
from launch.link_choice import choose_link
from launch.planning.notes import notes_on
from launch.resolve import dump, restore

from .runs import light

HERE = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)


def gpus(num_gpus: int, *, has_nccl: bool = True) -> Environment:
    return Environment(
        world_size=None, local_world_size=None, cores=2, gpus=num_gpus, has_nccl=has_nccl
    )


@pytest.mark.parametrize(
    ("environment", "device", "why"),
    [
        (HERE, "cpu", "the workers compute on CPUs"),
        (gpus(8), "cpu", "the workers compute on CPUs"),
        (gpus(8, has_nccl=False), "cuda", "this torch was built without NCCL"),
        (gpus(3), "cuda", "two ranks on one GPU, and 4 workers share 3"),
        (gpus(4), "cuda", "transfers between GPUs are not built yet;"),
    ],
)
def test_unusable_nccl_is_told_with_the_reason_and_the_link_used(environment, device, why):
    config = RunConfig(link="nccl", workers=4)
    link, note = choose_link(config, environment, device=device, workers=4)
    assert link == "shm"
    assert note is not None
    assert why in note
    assert note.startswith("--link nccl can't be used: ")
    assert note.endswith("; --link shm is used instead")


def test_gpus_are_shared_by_the_workers_of_their_host_only():
    two = Environment(world_size=4, local_world_size=2, cores=2, gpus=2, has_nccl=True)
    config = RunConfig(link="nccl", workers=4)
    link, note = choose_link(config, two, device="cuda", workers=4)
    assert link == "auto"
    assert note is not None
    assert note.endswith("not built yet; --link auto is used instead")


def test_links_other_than_nccl_are_taken_in_silence():
    for asked, found in (("auto", "shm"), ("zmq", "zmq-ipc"), ("gloo", "gloo")):
        config = RunConfig(link=asked)
        assert choose_link(config, HERE, device="cpu", workers=4) == (found, None)


def test_note_reaches_the_process_that_prints_it():
    """A repeated run, which asks for the link that was taken, has none."""
    resolved = light(link="nccl")
    (note,) = notes_on(restore(dump(resolved)))
    assert "--link shm is used instead" in note
    assert resolved.config.link == "shm"
    assert notes_on(restore(dump(light(link="shm")))) == []


TWO_HOSTS = Environment(world_size=4, local_world_size=2, cores=2, gpus=0)


def test_gloo_between_hosts_is_for_networks_that_are_trusted():
    config = RunConfig(link="gloo")
    with pytest.raises(ConfigError, match=r"link gloo knows no one.*--insecure-network"):
        choose_link(config, TWO_HOSTS, device="cpu", workers=4)
    trusting = RunConfig(link="gloo", insecure_network=True)
    assert choose_link(trusting, TWO_HOSTS, device="cpu", workers=4) == ("gloo", None)


def test_gloo_does_not_encrypt():
    config = RunConfig(link="gloo", encrypt_tensors=True)
    with pytest.raises(ConfigError, match="gloo can't encrypt tensors; use --link zmq"):
        choose_link(config, HERE, device="cpu", workers=4)
