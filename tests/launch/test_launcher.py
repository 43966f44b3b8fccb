"""What a launcher sets is a rank's place in the job; half of it is refused."""

import pytest

from launch.config import ConfigError
from launch.launcher import USUAL_PORT, Launcher
from runtime.program import StoreAddress

from .environs import ENV, TORCHRUN


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        Launcher.from_environ(environ)
    return str(caught.value)


def test_torchrun_variables_give_a_place_in_the_job():
    assert Launcher.from_environ(TORCHRUN) == Launcher(
        rank=1,
        world_size=4,
        local_rank=1,
        local_world_size=2,
        master_addr="node0",
        master_port=29500,
        is_torchrun=True,
    )


def test_rank_world_and_master_are_enough():
    """Each was a job of its own: four complete jobs, sixteen workers, all exit 0."""
    found = Launcher.from_environ(ENV)
    assert found == Launcher(rank=1, world_size=4, master_addr="10.0.0.1", master_port=USUAL_PORT)
    assert found.is_one_host is None


@pytest.mark.parametrize("environ", [{}, {"MASTER_ADDR": "node0", "LOCAL_RANK": "0"}])
def test_command_without_a_launcher_is_the_whole_job(environ):
    assert Launcher.from_environ(environ) is None


@pytest.mark.parametrize("left", [("RANK", "WORLD_SIZE"), ("WORLD_SIZE",), ("RANK",)])
def test_half_an_environment_is_refused_with_what_is_missing(left):
    """RANK and WORLD_SIZE were set, by a shell that remembered them or by mpirun: each process
    would have trained a job of its own."""
    message = refusal({name: TORCHRUN[name] for name in left})
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if name not in left]
    assert f"but not its {' '.join(missing)}; set what is missing" in message
    assert f"unset {' '.join(left)}" in message


def test_half_of_what_torchrun_sets_is_refused():
    others = {name: TORCHRUN[name] for name in TORCHRUN if not name.startswith("LOCAL")}
    assert "but not its LOCAL_RANK LOCAL_WORLD_SIZE; set what is missing" in refusal(others)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
def test_variable_that_is_no_number_is_named(name):
    """WORLD_SIZE=two was "invalid literal for int()"."""
    assert f"{name}='two' in the environment is not a whole number" in refusal(
        TORCHRUN | {name: "two"}
    )


@pytest.mark.parametrize("name", ["node..1", "n" * 64])
def test_master_that_can_be_no_name_is_refused(name):
    """It was a traceback of the codec for names when the store was hosted, or looked for."""
    message = refusal(TORCHRUN | {"MASTER_ADDR": name})
    assert message.startswith(
        f"MASTER_ADDR={name!r} in the environment can be no host's name (label "
    )
    assert message.endswith("; set it to the name or address of rank 0's host")


def test_rank_beyond_the_world_is_refused():
    assert "RANK=4 is not below WORLD_SIZE=4" in refusal(TORCHRUN | {"RANK": "4"})


@pytest.mark.parametrize(
    ("changes", "is_one"),
    [
        ({}, False),
        ({"LOCAL_WORLD_SIZE": "4"}, True),
        ({"WORLD_SIZE": "1", "RANK": "0"}, True),
        ({"MASTER_ADDR": "localhost"}, True),
        ({"MASTER_ADDR": "::1"}, True),
    ],
)
def test_one_host_has_all_ranks(changes, is_one):
    launcher = Launcher.from_environ(TORCHRUN | changes)
    assert launcher is not None
    assert launcher.is_one_host is is_one


@pytest.mark.parametrize(("said", "hosts"), [("True", True), ("False", False), (None, False)])
def test_rank_0_hosts_the_store_unless_the_launcher_does(said, hosts):
    """torchrun with static rendezvous, or without a shared store, leaves it to the ranks."""
    told = {} if said is None else {"TORCHELASTIC_USE_AGENT_STORE": said}
    launcher = Launcher.from_environ(ENV | told)
    assert launcher is not None
    assert launcher.member().store == StoreAddress(
        host="10.0.0.1", port=USUAL_PORT, is_launchers=hosts
    )


@pytest.mark.parametrize(("rank", "speaks"), [(None, True), ("0", True), ("1", False)])
def test_first_rank_of_a_host_speaks_for_it(rank, speaks):
    told = {} if rank is None else {"LOCAL_RANK": rank}
    launcher = Launcher.from_environ(ENV | told)
    assert launcher is not None
    assert launcher.member().speaks_here is speaks
