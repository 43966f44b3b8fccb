"""What torchrun sets is a rank's place in the job; half of it is refused."""

import pytest

from launch.config import ConfigError
from launch.launcher import Launcher

from .environs import TORCHRUN


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        Launcher.from_environ(environ)
    return str(caught.value)


def test_torchrun_variables_give_a_place_in_the_job():
    assert Launcher.from_environ(TORCHRUN) == Launcher(rank=1, world_size=4, local_world_size=2)


@pytest.mark.parametrize("environ", [{}, {"MASTER_ADDR": "node0", "LOCAL_RANK": "0"}])
def test_command_without_a_launcher_is_the_whole_job(environ):
    assert Launcher.from_environ(environ) is None


@pytest.mark.parametrize("left", [("RANK", "WORLD_SIZE"), ("WORLD_SIZE",), ("RANK",)])
def test_half_an_environment_is_refused_with_what_is_missing(left):
    """RANK and WORLD_SIZE were set, by a shell that remembered them or by mpirun: each process
    would have trained a job of its own."""
    message = refusal({name: TORCHRUN[name] for name in left})
    assert "LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID" in message
    assert f"unset {' '.join(left)}" in message


def test_launcher_without_torchruns_own_variable_is_refused():
    others = {name: value for name, value in TORCHRUN.items() if name != "TORCHELASTIC_RUN_ID"}
    assert "but not its TORCHELASTIC_RUN_ID; start with torchrun" in refusal(others)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"])
def test_variable_that_is_no_number_is_named(name):
    """WORLD_SIZE=two was "invalid literal for int()"."""
    assert f"{name}='two' in the environment is not a whole number" in refusal(
        TORCHRUN | {name: "two"}
    )


def test_rank_beyond_the_world_is_refused():
    assert "RANK=4 is not below WORLD_SIZE=4" in refusal(TORCHRUN | {"RANK": "4"})
