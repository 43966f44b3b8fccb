"""The snippets of docs/clusters.md run, if need be with stand-ins for a cluster's programs."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from launch.config import RunConfig
from launch.config_file import parse
from launch.launcher import NAMES, TORCHRUN, Launcher
from runtime.keeper.keeper import LEAVE_S, STOP_S
from runtime.trust.secret import BadSecret, read_secret

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text("utf-8")
FENCED = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
SHELL = [text for language, text in FENCED if language == "bash"]
JOINED = re.sub(r"\\\n *", "", "".join(SHELL))
MANIFEST, NOT_ROOT = (yaml.safe_load(text) for language, text in FENCED if language == "yaml")
WORKER = MANIFEST["spec"]["pytorchReplicaSpecs"]["Worker"]
POD = WORKER["template"]["spec"]
(CONTAINER,) = POD["containers"]
SMALL = ("--model=mlp", "--batch-size=16", "--threads=1", "--quick-end", "--steps=30")
TIMEOUT_S = 60.0
# Of sbatch and srun, mpirun, kubectl.
FOREIGN = {
    *("nodes", "ntasks-per-node", "cpus-per-task", "time", "signal", "requeue", "open-mode"),
    *("distribution", "kill-on-bad-exit"),
    *("host", "bind-to"),
    "from-file",
}
# Starts its command once for each task, as srun and mpirun do.
LAUNCH = """
import os, subprocess, sys
number, names, words = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
tasks = [
    subprocess.Popen(words, env={**os.environ, **dict.fromkeys(names, str(task))})
    for task in range(number)
]
with open("tasks", "w") as file:
    file.write(" ".join(str(task.pid) for task in tasks) + "\\n")
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec python launch.py "$SLURM_NTASKS" SLURM_PROCID,SLURM_LOCALID "$@"
"""
SRUN_THAT_FAILS = """#!/bin/bash
read -r code rest < codes
echo "$rest" > codes
exit "$code"
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then echo localhost; else echo "$@" >> requeued; fi
"""
MPIRUN = """#!/bin/bash
while [[ $1 == -* ]]; do
  case $1 in -np) number=$2 ;; -x) export "${2?}" ;; esac
  shift 2
done
export OMPI_COMM_WORLD_SIZE=$number
exec "$REAL_PYTHON" launch.py "$number" OMPI_COMM_WORLD_RANK,OMPI_COMM_WORLD_LOCAL_RANK "$@"
"""
PRINT = """#!/bin/bash
exec "$REAL_PYTHON" print.py "$@"
"""
PRINTED = """
import json, os, sys
os.write(1, (json.dumps([dict(os.environ), sys.argv[1:]]) + "\\n").encode())
"""


def snippet(words: str) -> str:
    (found,) = [text for text in SHELL if words in text]
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Cluster:
    """A directory as the page wants it, and programs of a cluster that stand in for the real."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "launch").symlink_to(ROOT / "launch")
        (directory / "launch.py").write_text(LAUNCH)
        (directory / "print.py").write_text(PRINTED)
        self.key = directory / "job.key"
        self.key.write_text("0123456789abcdef" * 2)
        self.key.chmod(0o600)
        self.bin = directory / "bin"
        self.bin.mkdir()

    def has(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def start(
        self, script: str, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        path = f"{self.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        known = {"PATH": path, "REAL_PYTHON": sys.executable, **(environ or {})}
        return subprocess.Popen(
            ["bash", "-c", script, "script", *arguments],
            cwd=self.directory,
            env={**os.environ, **known},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def slurm(cluster) -> dict[str, str]:
    """What sbatch sets for a job of two tasks."""
    cluster.has("srun", SRUN)
    cluster.has("scontrol", SCONTROL)
    return {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_JOB_NODELIST": "host-[0-1]",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }


@pytest.mark.parametrize("script", SHELL, ids=lambda script: script.splitlines()[0])
def test_shell_can_be_read(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_flags_exist():
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", PAGE))
    ours = {field.name.replace("_", "-") for field in fields(RunConfig)}
    torchruns = {
        option.removeprefix("--")
        for action in get_args_parser()._actions
        for option in action.option_strings
    }
    assert named - ours - torchruns - FOREIGN == set()


def test_variables_are_those_that_a_rank_is_recognised_by():
    table, _, _ = PAGE.partition("torchrun sets all of them")
    assert set(re.findall(r"`([A-Z_]+)`", table)) == {*NAMES, *TORCHRUN}


@pytest.mark.parametrize(
    "flags", re.findall(r"torchrun (-.*? launch/pipeline.py .*?)$", JOINED, re.MULTILINE)
)
def test_torchrun_takes_its_flags(flags):
    given = get_args_parser().parse_args(shlex.split(os.path.expandvars(flags)))
    assert given.training_script == "launch/pipeline.py"


def test_torchrun_is_started_in_two_ways():
    assert JOINED.count("--rdzv-backend=c10d --rdzv-endpoint=") == 2


# By hand ----------------------------------------------------------------------------------------


def test_two_terminals_are_one_job(cluster):
    runs = []
    port = {"MASTER_PORT": str(free_port())}
    for host in "ab":
        command = snippet(f"# on host {host}\n").replace("/shared/run", "run").rstrip()
        here = command.replace("10.0.0.1", "127.0.0.1")
        runs.append(cluster.start(f"{here} {shlex.join(SMALL)}", environ=port))
    (a, a_err), (b, b_err) = (run.communicate(timeout=TIMEOUT_S) for run in runs)
    assert [run.returncode for run in runs] == [0, 0], a_err + b_err
    assert "2 workers, 30 steps" in a
    assert b + b_err == ""


# Slurm ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun_on_each_host_of_slurm_is_one_job(cluster, slurm):
    script = snippet("# torchrun on each host").replace("--nproc-per-node=4", "--nproc-per-node=1")
    run = cluster.start(script, "--bind", "127.0.0.1", *SMALL, environ=slurm)
    out, err = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0, err
    assert "2 workers, 30 steps" in out
    assert not (cluster.directory / "requeued").exists()


@pytest.mark.slow
def test_tasks_of_slurm_stop_when_the_time_is_up_and_resume(cluster, slurm):
    script = snippet("# a task for each rank")
    flags = ("--bind", "127.0.0.1", *SMALL, "--report-every-s=.1", "--faults=slow:0@5x30+20")
    run_dir = cluster.directory / "runs" / slurm["SLURM_JOB_ID"]
    run = cluster.start(script, *flags, environ=slurm)
    await_step(run, run_dir / "metrics.jsonl", 6)
    for pid in (cluster.directory / "tasks").read_text().split():
        os.kill(int(pid), 15)
    out, err = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 143, err
    assert out.count("attempt") == 1
    assert "stopped by SIGTERM; the last complete checkpoint is of step" in err
    requeued = cluster.directory / "requeued"
    assert requeued.read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"

    requeued.unlink()
    again = cluster.start(script, *flags, environ=slurm)
    out, err = again.communicate(timeout=TIMEOUT_S)
    assert again.returncode == 0, err
    assert "resumes from step" in out + err
    assert not requeued.exists()


def await_step(run: "subprocess.Popen[str]", metrics: Path, step: int) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        if any(row.get("step", -1) >= step for row in rows):
            return
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no step {step}")


@pytest.mark.parametrize(
    ("codes", "code", "attempts", "is_requeued"),
    [
        ("1 137 0", 0, 3, False),
        ("1 1 1 1 0", 1, 4, False),
        ("2 0", 2, 1, False),
        ("1 143 0", 143, 2, True),
    ],
)
def test_tasks_that_have_lost_one_are_started_again(
    cluster, slurm, codes, code, attempts, is_requeued
):
    cluster.has("srun", SRUN_THAT_FAILS)
    (cluster.directory / "codes").write_text(codes + "\n")
    run = cluster.start(snippet("# a task for each rank"), environ=slurm)
    out, err = run.communicate(timeout=TIMEOUT_S)
    assert (run.returncode, out.count("attempt"), err) == (code, attempts, "")
    assert (cluster.directory / "requeued").exists() == is_requeued


@pytest.mark.parametrize(
    ("codes", "restarts", "is_requeued"), [("0", "0", False), ("1", "4", True), ("1", "5", False)]
)
def test_torchruns_that_have_ended_are_queued_again(cluster, slurm, codes, restarts, is_requeued):
    cluster.has("srun", SRUN_THAT_FAILS)
    (cluster.directory / "codes").write_text(codes + "\n")
    known = slurm | {"SLURM_RESTART_COUNT": restarts}
    run = cluster.start(snippet("# torchrun on each host"), environ=known)
    _, err = run.communicate(timeout=TIMEOUT_S)
    assert (run.returncode, err) == (int(codes), "")
    assert (cluster.directory / "requeued").exists() == is_requeued


def test_signal_of_slurm_is_for_the_tasks():
    for script in (snippet("# torchrun on each host"), snippet("# a task for each rank")):
        (options,) = re.findall(r"^#SBATCH (--signal.*)$", script, re.MULTILINE)
        assert options.split() == ["--signal=TERM@60", "--requeue", "--open-mode=append"]


# Kubernetes -------------------------------------------------------------------------------------


def test_manifest_is_a_job_that_comes_back():
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert MANIFEST["spec"]["elasticPolicy"]["rdzvBackend"] == "c10d"
    assert MANIFEST["spec"]["nprocPerNode"].isdigit()
    assert set(MANIFEST["spec"]["pytorchReplicaSpecs"]) == {"Worker"}
    assert WORKER["restartPolicy"] == "OnFailure"
    assert POD["terminationGracePeriodSeconds"] > STOP_S + LEAVE_S
    assert CONTAINER["name"] == "pytorch"  # by which the operator finds it
    environ = {variable["name"]: variable for variable in CONTAINER["env"]}
    assert environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"]["value"] == "1"
    assert "podIP" in str(environ["PET_LOCAL_ADDR"]["valueFrom"])
    mounts = {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {volume["name"] for volume in POD["volumes"]}


def test_manifests_command_finds_what_is_mounted():
    assert CONTAINER["command"] == ["torchrun"]
    torchrun = get_args_parser().parse_args(CONTAINER["args"])
    config = parse(torchrun.training_script_args, prog="pipeline")
    paths = {mount["name"]: Path(mount["mountPath"]) for mount in CONTAINER["volumeMounts"]}
    (key,) = re.findall(r"--from-file=(\S+)", snippet("kubectl create secret"))
    assert config.secret_file == paths["secret"] / key
    assert config.run_dir is not None
    assert config.run_dir.is_relative_to(paths["runs"])


def test_mounted_secret_is_read(tmp_path):
    """A Secret's volume has links to a directory that is replaced as a whole."""
    (mode,) = [volume["secret"]["defaultMode"] for volume in POD["volumes"] if "secret" in volume]
    made = tmp_path / "..2026_01_01"
    made.mkdir()
    (made / "job.key").write_text("0123456789abcdef")
    (tmp_path / "..data").symlink_to(made.name)
    mounted = tmp_path / "job.key"
    mounted.symlink_to("..data/job.key")
    mounted.chmod(mode)
    assert read_secret(mounted) == b"0123456789abcdef"
    for refused in (0o440, 0o644):  # as fsGroup makes it, and without defaultMode
        mounted.chmod(refused)
        with pytest.raises(BadSecret, match="can be read by others"):
            read_secret(mounted)


def test_pod_that_is_not_roots_makes_a_secret_of_its_own(cluster):
    (container,) = NOT_ROOT["containers"]
    assert container["command"] == ["sh", "-c"]
    (script,) = container["args"]
    mounted, mine = cluster.directory / "mounted.key", cluster.directory / "mine.key"
    mounted.write_text("0123456789abcdef")
    mounted.chmod(0o440)
    cluster.has("torchrun", PRINT)
    here = script.replace("/secret/job.key", str(mounted)).replace("/tmp/job.key", str(mine))
    out, err = cluster.start(f"exec sh -c {shlex.quote(here)}").communicate(timeout=TIMEOUT_S)
    _, given = json.loads(out)
    torchrun = get_args_parser().parse_args(given)
    config = parse(torchrun.training_script_args, prog="pipeline")
    assert config.secret_file == mine, err
    assert read_secret(mine) == b"0123456789abcdef"


# Other launchers --------------------------------------------------------------------------------


def test_ranks_of_mpirun_are_recognised(cluster):
    cluster.has("mpirun", MPIRUN)
    cluster.has("python", PRINT)
    out, err = cluster.start(snippet("mpirun")).communicate(timeout=TIMEOUT_S)
    found: list[tuple[Any, Any]] = [json.loads(line) for line in out.splitlines()]
    ranks = sorted((launcher(environ) for environ, _ in found), key=lambda rank: rank.rank)
    assert [rank.rank for rank in ranks] == [0, 1, 2, 3], err
    assert {(rank.world_size, rank.master_addr) for rank in ranks} == {(4, "a")}
    for _, (program, *flags) in found:
        assert program == "launch/pipeline.py"
        assert parse(flags, prog="pipeline").secret_file == Path("job.key")


def launcher(environ: Mapping[str, str]) -> Launcher:
    found = Launcher.from_environ(environ)
    assert found is not None
    return found
