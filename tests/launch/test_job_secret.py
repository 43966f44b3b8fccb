"""Which secret the ranks of a job know each other by."""

from dataclasses import replace
from pathlib import Path

import pytest

from launch.config import ConfigError, RunConfig
from launch.job_secret import NO_SECRET, job_secret
from launch.launcher import Launcher

TWO_HOSTS = Launcher(
    rank=0, world_size=4, local_world_size=2, master_addr="node0", master_port=29500
)
ONE_HOST = replace(TWO_HOSTS, local_world_size=4)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "job.key"
    path.write_text("0123456789abcdef")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("launcher", [None, ONE_HOST])
def test_job_on_one_host_has_the_users_own(launcher, state):
    assert job_secret(RunConfig(), launcher) == job_secret(RunConfig(), launcher)
    assert (state / "loco" / "key").exists()


@pytest.mark.parametrize("launcher", [None, ONE_HOST, TWO_HOSTS])
def test_file_is_used_if_there_is_one(launcher, file, state):
    assert job_secret(RunConfig(secret_file=file), launcher) == b"0123456789abcdef"
    assert not state.exists()


def test_job_on_several_hosts_without_a_secret_is_refused():
    with pytest.raises(ConfigError, match=r"needs --secret-file.*openssl.*--insecure-network"):
        job_secret(RunConfig(), TWO_HOSTS)


def test_insecure_network_needs_no_secret():
    assert job_secret(RunConfig(insecure_network=True), TWO_HOSTS) == NO_SECRET


def test_file_that_can_not_be_used_is_refused(file):
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        job_secret(RunConfig(secret_file=file), ONE_HOST)
