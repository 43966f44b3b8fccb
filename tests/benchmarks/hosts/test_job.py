"""How a job is started on hosts: each way's commands and variables, without any host."""

import io
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.hosts import namespaces
from benchmarks.hosts.job import HOWS, PIPELINE, PORT, HostsJob, write_secret


class Host:
    def __init__(self, index: int, address: str) -> None:
        self.address = address
        self.started: list[tuple[list[str], dict[str, str]]] = []
        self.pids: list[int] = []

    def start(self, command: list[str], *, env: dict[str, str], **_: Any) -> Any:
        self.started.append((command, env))
        return SimpleNamespace(poll=lambda: 0, wait=lambda timeout: 0)

    def processes(self) -> list[int]:
        return self.pids

    def path(self, path: Path) -> Path:
        return path


def make(tmp_path: Path, how: str, *, ranks=(2, 1), **facts) -> tuple[HostsJob, list[Host]]:
    hosts = [Host(i, f"10.0.0.{i + 1}") for i in range(len(ranks))]
    job = HostsJob(
        hosts=SimpleNamespace(hosts=hosts),
        how=how,
        ranks=ranks,
        flags=("--steps=3",),
        run_dir=tmp_path / "run",
        work=tmp_path / "work",
        **facts,
    )
    job.start()
    return job, hosts


def test_ranks_of_no_launcher_are_numbered_over_all_hosts(tmp_path):
    _, hosts = make(tmp_path, "env")
    started = [variables for host in hosts for _, variables in host.started]
    assert [variables["RANK"] for variables in started] == ["0", "1", "2"]
    assert [variables["LOCAL_RANK"] for variables in started] == ["0", "1", "0"]
    assert {variables["WORLD_SIZE"] for variables in started} == {"3"}
    assert {variables["MASTER_ADDR"] for variables in started} == {"10.0.0.1"}
    assert all("LOCAL_WORLD_SIZE" not in variables for variables in started)
    assert all(str(PIPELINE) in command for host in hosts for command, _ in host.started)


@pytest.mark.parametrize("how", [how for how in HOWS if how not in ("env", "pet")])
def test_torchrun_is_told_of_the_hosts_by_flags(tmp_path, how):
    _, hosts = make(tmp_path, how, torchrun_flags=("--max-restarts=3",))
    (command, variables), *more = hosts[1].started
    assert more == []
    assert {"--nnodes=2", "--nproc_per_node=1", "--max-restarts=3"} <= set(command)
    is_static = how == "torchrun-static"
    assert ("--node_rank=1" in command) is is_static
    assert (f"--rdzv-endpoint=10.0.0.1:{PORT}" in command) is not is_static
    own_store = variables.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1"
    assert own_store is (how == "torchrun-own-store")


def test_kubeflow_sets_variables_alone(tmp_path):
    _, hosts = make(tmp_path, "pet")
    ((command, variables),) = hosts[1].started
    assert not any(word.startswith("--n") for word in command)
    assert variables["PET_NNODES"] == "2"
    assert variables["PET_NODE_RANK"] == "1"
    assert variables["PET_NPROC_PER_NODE"] == "1"
    assert variables["PET_MASTER_ADDR"] == "10.0.0.1"


def test_host_may_have_flags_of_its_own(tmp_path):
    _, hosts = make(tmp_path, "env", flags_of_host={0: ("--bind=lo",)})
    assert ["--bind=lo" in command for host in hosts for command, _ in host.started] == [
        True,
        True,
        False,
    ]


def test_what_outlives_launchers_and_ranks_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.hosts.job.LEAVE_S", 0.2)
    job, hosts = make(tmp_path, "env")
    gone = subprocess.Popen(["true"])
    gone.wait()
    hosts[1].pids = [gone.pid]
    assert job.end() == [gone.pid]


def test_steps_are_read_while_a_line_is_being_written(tmp_path):
    job, _ = make(tmp_path, "env")
    assert job.step() == -1
    job.run_dir.mkdir()
    lines = '{"block": 0, "step": 4, "loss": 1.0}\n{"event": "restarted"}\n{"step": 9'
    (job.run_dir / "metrics.jsonl").write_text(lines)
    assert job.step() == 4


def test_secret_is_for_its_owner_alone(tmp_path):
    path = write_secret(tmp_path / "secret")
    assert path.stat().st_mode & 0o777 == 0o600
    assert write_secret(path).read_text() != ""


def test_host_is_held_before_anything_starts_on_it(monkeypatch):
    """On a busy machine the first command came before the process that it looked for."""
    shell = SimpleNamespace(stdout=io.BytesIO(b"\n"))
    monkeypatch.setattr(namespaces.subprocess, "Popen", lambda *_, **__: shell)
    found = [[], [], [7]]
    monkeypatch.setattr(namespaces.Host, "processes", lambda self, held: found.pop(0))
    namespaces.Host(name="host-0", namespace="loco-0", address="10.77.0.1").hold(())
    assert found == []


def test_namespaces_that_can_not_be_made_are_one_message(monkeypatch, capsys):
    from benchmarks.hosts import namespaces

    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    assert namespaces.main(["up", "2"]) == 2
    assert "network namespaces need root; run as root on Linux" in capsys.readouterr().err
    assert namespaces.main(["sideways"]) == 2
    assert "namespaces up 2" in capsys.readouterr().err


def test_tools_that_are_missing_are_named(monkeypatch):
    from benchmarks.hosts import namespaces

    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: None if tool == "ip" else tool)
    assert namespaces.why_not() == "no ip here (iproute2, util-linux)"
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: tool)
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(namespaces.subprocess, "run", lambda *_, **__: failed)
    assert "makes no network namespaces here" in namespaces.why_not()
