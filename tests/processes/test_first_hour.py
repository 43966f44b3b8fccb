"""What a newcomer meets in the first hour, in real runs: their code, their machine, their keys.

Each test opens with what happened before it was mended.
"""

import contextlib
import os
import pty
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from .conftest import ROOT, SMALL, assert_nothing_is_left

QUICK = (*SMALL, "--quick-end", "--workers", "2")
RANKS = ("--standalone", "--nproc_per_node=2")
LONG = (*QUICK, "--steps", "100000", "--report-every-s", "0.1")

DATA = """
import multiprocessing, os, subprocess, sys, threading, time
import torch

def images():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(80, 1, 16, 16, generator=generator), torch.arange(80) % 10
    return images[:64], labels[:64], images[64:], labels[64:]

def double(x):
    return 2 * x

def pooled():
    with multiprocessing.Pool(2) as pool:
        assert pool.map(double, [1, 2]) == [2, 4]
        pool.apply_async(time.sleep, (1000,))  # what it is at when it is ended
        time.sleep(0.3)
    closed = multiprocessing.Pool(2)
    closed.map(double, [1])
    closed.close()
    closed.join()
    return images()

def leaving():
    global pool  # nobody ends it
    pool = multiprocessing.Pool(1)
    pool.map(double, [1])
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    return images()

def threaded():
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return images()

def exiting():
    sys.exit(0)

def exiting_at_once():
    os._exit(0)

def upsetting():
    found = images()
    os.chdir("/")
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    return found

def endless():
    time.sleep(10**6)

def endless_in_a_worker():
    if multiprocessing.current_process().name == "worker 0":
        time.sleep(10**6)
    return images()
"""


@pytest.fixture
def torchrun_2() -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *RANKS]


def await_true(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


# The user's own code ----------------------------------------------------------------------------


@pytest.mark.parametrize("launched", [False, True], ids=["alone", "torchrun"])
def test_users_error_ends_the_job_with_its_traceback(start, tmp_path, launched, request):
    """Under torchrun "the coordinator failed ... training goes on without it for a while" was said
    over and over, while nothing trained."""
    (tmp_path / "mine.py").write_text("def build():\n    return {}['no such layer']\n")
    launcher = request.getfixturevalue("torchrun_2") if launched else (sys.executable,)
    run = start("--model", "mine:build", "--steps", "10", launcher=launcher)
    code, _, err = run.end(timeout_s=30)
    assert code == 1
    assert err.count("KeyError: 'no such layer'") >= 1
    assert "in build" in err
    told = "the job could not begin: model 'mine:build' raised KeyError: 'no such layer'"
    assert err.count(f"pipeline: error: {told}") == 1
    assert "the coordinator" not in err


def test_users_folder_takes_the_place_of_none_of_ours(start, tmp_path):
    """An empty models/__init__.py in the current directory: "No module named 'models.heads'", from
    four coordinators."""
    package = tmp_path / "models"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "net.py").write_text(
        "from torch import nn\nfrom .widths import WIDTH\n\ndef build():\n"
        "    first = nn.Sequential(nn.Flatten(), nn.Linear(256, WIDTH))\n"
        "    return nn.Sequential(first, nn.Linear(WIDTH, WIDTH))\n"
    )
    (package / "widths.py").write_text("WIDTH = 8\n")
    (tmp_path / "random.py").write_text("raise SystemExit('the standard library comes first too')")
    flags = ("--workers", "2", "--steps", "3", "--quick-end", "--decoder-depth", "0")
    run = start(*flags, "--model", "models/net.py:build")
    code, out, err = run.end()
    assert code == 0, out + err
    code, _, err = start(*flags, "--model", "models.net:build").end()
    assert code == 2
    assert "models is this project's own package, not the folder models" in err
    assert "--model models/net.py:build" in err


def test_users_pool_can_be_used_and_closed(start, tmp_path):
    """multiprocessing.Pool(2) in a data load() hung in silence: its processes had inherited an
    ignored SIGTERM, by which a pool ends them; three remained."""
    (tmp_path / "mine.py").write_text(DATA)
    run = start(*QUICK, "--steps", "3", "--data", "mine:pooled", "--hang-timeout-s", "3")
    code, out, err = run.end(timeout_s=40)
    assert code == 0, out + err


def test_processes_of_user_code_end_with_their_worker(start, tmp_path):
    (tmp_path / "mine.py").write_text(DATA)
    run = start(*LONG, "--data", "mine:leaving", "--faults", "kill:0@20")
    first = run.await_step(0, 5)
    theirs = psutil.Process(first["pid"]).children(recursive=True)
    assert len(theirs) == 2
    again = run.await_step(0, 25)
    assert again["pid"] != first["pid"]
    _, alive = psutil.wait_procs(theirs, timeout=5)
    assert alive == []
    run.descendants = psutil.Process(run.process.pid).children(recursive=True)
    run.process.send_signal(signal.SIGKILL)  # the keeper can do nothing for them
    run.end(timeout_s=20)
    assert_nothing_is_left(run)


@pytest.mark.parametrize("when", ["load", "evaluate"])
def test_stop_is_no_error_of_the_users_and_finishes_nothing(start, tmp_path, when):
    """Ctrl-C while a load() ran: forty lines of traceback that blamed it. While the run was
    evaluated: a finished run without accuracy, which the same command never evaluated again."""
    wait = "open('begun', 'w').close(); time.sleep(1000)"
    (tmp_path / "mine.py").write_text(
        f"{DATA}\ndef slow():\n    {wait}\n"
        "class Slow(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        f"        if not self.training: {wait}\n"
        "        return x\n"
        "def build():\n"
        "    first = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8))\n"
        "    second = torch.nn.Sequential(Slow(), torch.nn.Linear(8, 8))\n"
        "    return torch.nn.Sequential(first, second)\n"
    )
    flags = {"load": ("--data", "mine:slow"), "evaluate": ("--model", "mine:build")}[when]
    few = ("--workers", "2", "--steps", "3", "--batch-size", "16", "--decoder-depth", "0")
    run = start(*few, *flags)
    await_true((tmp_path / "begun").exists)
    run.descendants = psutil.Process(run.process.pid).children(recursive=True)
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.end(timeout_s=30)
    assert code == 128 + signal.SIGINT
    assert "stopped by SIGINT" in err
    assert "Traceback" not in err
    assert "pipeline: error" not in err
    assert not (run.dir / "summary.json").exists()
    assert run.survivors() == []


def test_process_that_can_not_be_started_ends_the_job(start, tmp_path):
    """The current directory was deleted, and the coordinator killed: its keeper could start no
    other, left the workers behind, and heard no signal any more."""
    place = tmp_path / "place"
    place.mkdir()
    run = start(*LONG, "--faults", "coordinator-kill@20", cwd=place)
    run.await_step(1, 5)
    place.rmdir()
    code, _, err = run.end(timeout_s=40)
    assert code == 1
    assert "a process can't be started" in err
    assert_nothing_is_left(run)


@pytest.mark.slow
def test_processes_of_user_code_end_with_a_stop(start, tmp_path):
    (tmp_path / "mine.py").write_text(DATA)
    run = start(*LONG, "--data", "mine:leaving")
    run.await_step(1, 5)
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.end(timeout_s=30)
    assert code == 128 + signal.SIGINT, err
    assert_nothing_is_left(run)


def test_user_code_may_change_its_process(start, tmp_path):
    """A thread that a load() had left held up the end of its process, and of the job. After an
    os.chdir the run was written elsewhere, and another default dtype or no gradients broke it."""
    (tmp_path / "mine.py").write_text(DATA)
    digests = set()
    for load in ("threaded", "upsetting"):
        run = start(*QUICK, "--steps", "3", "--data", f"mine:{load}")
        code, out, err = run.end(timeout_s=40)
        assert code == 0, out + err
        digests.add(run.summary["state_sha256"])
    assert len(digests) == 1


@pytest.mark.parametrize("load", ["exiting", "exiting_at_once"])
def test_user_code_that_exits_is_a_failure_whatever_the_code(start, tmp_path, load):
    """sys.exit(0) in a load() was a job that ended well: exit code 0, nothing trained or told."""
    (tmp_path / "mine.py").write_text(DATA)
    run = start(*QUICK, "--data", f"mine:{load}", "--max-worker-restarts", "0")
    code, _, err = run.end(timeout_s=40)
    assert code == 1
    told = {"exiting": "raised SystemExit: 0", "exiting_at_once": "left with exit code 0 before"}
    assert told[load] in err


@pytest.mark.parametrize(
    ("load", "who"), [("endless", "the coordinator"), ("endless_in_a_worker", "worker 0")]
)
def test_load_that_does_not_end_is_told_and_ended(start, tmp_path, load, who):
    """A load() that slept for ever was not noticed in 60 s."""
    (tmp_path / "mine.py").write_text(DATA)
    flags = ("--phase-timeout-s", "5", "--max-worker-restarts", "0")
    run = start(*QUICK, "--steps", "3", "--data", f"mine:{load}", *flags)
    code, _, err = run.end(timeout_s=60)
    assert code == 1
    phase = rf"it has been loading the data \(mine:{load}\) for \d+\.\d s \(--phase-timeout-s\)"
    assert re.search(rf"{who} \(pid \d+\) was killed, for {phase}", err), err


# The machine ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_run_prints_whatever_the_encoding_and_the_names_are(start, tmp_path, encoding):
    """PYTHONIOENCODING=latin-1: trained, then exit 1, "can't encode '\\u2013'". A run directory of
    'exp[lr=0.1]' was shown as "exp", another one was a MarkupError. A TMPDIR of 150 characters:
    AF_UNIX path too long."""
    temporary = tmp_path / ("x" * 150)
    temporary.mkdir()
    run = start(
        *(*QUICK, "--steps", "3"),
        run_dir=tmp_path / "exp[lr=0.1][/bold] :smile:",
        environment={"PYTHONIOENCODING": encoding, "TMPDIR": str(temporary)},
    )
    code, out, err = run.end()
    assert code == 0, out + err
    assert f"run directory: {run.dir}\n" in out
    assert list(temporary.iterdir()) == []
    assert (run.dir / "weights.safetensors").exists()


def test_closed_pipe_does_not_end_a_run(start):
    """`| head -2`: no weights and no summary."""
    run = start(*QUICK, "--steps", "60")
    assert run.process.stdout is not None
    run.process.stdout.readline()
    run.process.stdout.close()
    run.process.stdout = None
    code, _, err = run.end()
    assert code == 0, err
    assert run.summary["steps"] == 60
    log = (run.dir / "logs" / "coordinator.log").read_text()
    assert "<stdout> can't be written to any more (Broken pipe)" in log


def test_checkpoints_that_fail_leave_nothing(start):
    """On a small disk 18 failed checkpoints left their finished parts, and then there was no room
    for the weights: four coordinators, exit 1."""
    full = ",".join(f"disk-full:{step // 2 % 2}@{step}" for step in range(4, 40, 2))
    run = start(*QUICK, "--steps", "40", "--checkpoint-every", "2", "--faults", full)
    code, out, err = run.end()
    assert code == 0, out + err
    assert err.count("No space left on device") >= 10
    checkpoints = [path for path in (run.dir / "checkpoints").iterdir() if path.is_dir()]
    assert len(checkpoints) <= 2
    assert all((path / "manifest.json").exists() for path in checkpoints)
    assert (run.dir / "weights.safetensors").exists()


def test_launchers_environment_by_half_is_refused(start):
    """RANK and WORLD_SIZE without a launcher: each process would have trained a job of its own."""
    run = start(*QUICK, environment={"RANK": "1", "WORLD_SIZE": "2"})
    code, out, err = run.end()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "RANK=1 WORLD_SIZE=2" in line
    assert "but not its MASTER_ADDR" in line


def test_sockets_listen_on_ipv6(start):
    """--bind ::1, on a host that has it, was "no address of this host"."""
    run = start(*QUICK, "--steps", "3", "--link", "zmq-tcp", "--bind", "::1")
    code, out, err = run.end()
    assert code == 0, out + err


# Signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGUSR1, "the keeper"),
        (signal.SIGUSR2, "a worker"),
        (signal.SIGUSR1, "all"),
    ],
)
def test_schedulers_warning_stops_the_job_at_a_checkpoint(start, number, to):
    """SLURM's USR1 killed the process that it reached: no checkpoint. A signal that reached several
    processes of a job was taken for a second one, which ends it at once."""
    run = start(*LONG)
    worker = run.await_step(1, 5)["pid"]
    everyone = [run.process.pid, *(process.pid for process in run.descendants)]
    for pid in {"the keeper": everyone[:1], "a worker": [worker], "all": everyone}[to]:
        os.kill(pid, number)
    code, _, err = run.end(timeout_s=30)
    assert code == 128 + number
    assert f"stopped by {number.name}; the last complete checkpoint is of step" in err
    assert_nothing_is_left(run)


@pytest.mark.slow
def test_launcher_that_dies_of_a_warning_leaves_a_checkpoint(start, torchrun_2):
    """torchrun knows nothing of USR1: it dies, and its ranks were killed with it."""
    run = start(*SMALL, "--quick-end", "--steps", "100000", launcher=torchrun_2)
    run.await_step(1, 5)
    run.process.send_signal(signal.SIGUSR1)
    await_true(lambda: bool(list((run.dir / "checkpoints").glob("*/manifest.json"))))
    run.process.communicate(timeout=30)
    assert_nothing_is_left(run)


class Shell:
    """An interactive shell on a terminal of its own, with job control."""

    def __init__(self, directory: Path) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execv("/bin/bash", ["bash", "--norc", "-i"])
        os.set_blocking(self._terminal, False)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def read(self) -> str:
        """All that it has shown so far."""
        try:
            while chunk := os.read(self._terminal, 65_536):
                self.text += chunk.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass
        return self.text

    def states(self) -> list[str]:
        """Of the job's processes that we have started; the fork server may wait."""
        found = psutil.Process(self.pid).children(recursive=True)
        states = []
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                states += [process.status()] if process.name() != "bash" else []
        return states

    def close(self) -> None:
        for process in [
            *psutil.Process(self.pid).children(recursive=True),
            psutil.Process(self.pid),
        ]:
            process.kill()
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


@pytest.fixture
def shell(tmp_path):
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.mark.slow
@pytest.mark.parametrize("launched", [False, True], ids=["alone", "torchrun"])
def test_ctrl_z_stops_all_and_fg_lets_all_go_on(shell, tmp_path, launched):
    """The keeper stopped, and the workers went on computing."""
    metrics = tmp_path / "run" / "metrics.jsonl"

    def num_records() -> int:
        shell.read()
        return metrics.read_text().count("\n") if metrics.exists() else 0

    launcher = f"-m torch.distributed.run {' '.join(RANKS)}" if launched else ""
    flags = " ".join([*SMALL, "--quick-end", *([] if launched else ["--workers", "2"])])
    shell.type(
        f"{sys.executable} {launcher} {ROOT}/launch/pipeline.py {flags} --steps 100000"
        " --hang-timeout-s 2 --report-every-s 0.1 --run-dir run\n"
    )
    await_true(lambda: num_records() > 20, timeout_s=60)
    shell.type("\x1a")
    await_true(lambda: shell.states().count(psutil.STATUS_STOPPED) >= 4)
    before = num_records()
    time.sleep(5.0)  # longer than a hang, for whoever does not stop
    assert num_records() == before
    shell.type("fg\n")
    await_true(lambda: num_records() > before + 20)
    assert '"event"' not in metrics.read_text()
    shell.type("\x03")
    await_true(lambda: not shell.states())
    assert "stopping at a checkpoint" in shell.read()
