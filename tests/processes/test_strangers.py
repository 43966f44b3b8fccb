"""What a stranger can do to a real run: with a login of another user, or from the network.

Where these tests can't become another user (they are not root), those that need one say so.
"""

import contextlib
import json
import multiprocessing
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from torch.distributed import TCPStore

from .conftest import SMALL, Run, Start, assert_nothing_is_left, reference_digests

STRANGER = 65534  # nobody
STEPS = 60
SLOW = ("--faults", "slow:0@20x60+20")  # there is time for strangers to come
JOB = (*SMALL, "--workers", "3", "--steps", str(STEPS), "--quick-end")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")


@pytest.fixture(scope="module")
def expected() -> str:
    return reference_digests(*JOB)["weights_sha256"]


def as_stranger(look: Callable[[], list[str]]) -> list[str]:
    """What a function returns to a process of another user."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    if (pid := os.fork()) == 0:
        os.setgroups([])
        os.setgid(STRANGER)
        os.setuid(STRANGER)
        try:
            theirs.send(look())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert ours.poll(0), "it failed"
    found: list[str] = ours.recv()
    return found


def reached(sockets: list[str], files: list[str]) -> list[str]:
    """The sockets that can be connected to, and the files that can be read."""
    found = []
    for path in sockets:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(path)
            found.append(path)
    for path in files:
        with contextlib.suppress(OSError):
            _ = os.listdir(path) if os.path.isdir(path) else Path(path).read_bytes()
            found.append(path)
    return found


def listening(run: Run) -> list[Any]:
    """The tcp sockets at which processes of a run listen, without its launcher's."""
    pids = {process.pid for process in psutil.Process(run.process.pid).children(recursive=True)}
    return [
        found
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.pid in pids
    ]


def assert_undisturbed(run: Run, expected: str) -> dict[str, object]:
    code, out, err = run.end()
    assert code == 0, (out, err)
    assert run.summary["weights_sha256"] == expected
    assert run.summary["restarts"] == []
    assert_nothing_is_left(run)
    return run.summary


# Another user of the host -----------------------------------------------------------------------


@pytest.mark.slow
@needs_root
def test_another_user_can_neither_read_nor_connect(start: Start, expected):
    """Neither the run directory, nor sockets, nor shared memory, whatever the umask."""
    before = os.umask(0)
    try:
        run = start(*JOB, *SLOW)
    finally:
        os.umask(before)
    run.await_step(0, 15)
    keeper = psutil.Process(run.process.pid)
    children = keeper.children(recursive=True)
    listening_at = {
        connection.laddr
        for process in (keeper, *children)
        for connection in process.net_connections("unix")
    }
    sockets = [at for at in listening_at if re.search(r"/loco-\w+/(edge-\d|coordinator)$", at)]
    assert len(sockets) >= 3
    memory = [f"/proc/{run.process.pid}/fd", *(f"/proc/{child.pid}/fd" for child in children)]
    files = [str(run.dir), str(run.dir / "config.toml"), *memory]
    assert as_stranger(lambda: reached(sockets, files)) == []
    assert set(reached(sockets, files)) == {*sockets, *files}, "the user can"
    assert_undisturbed(run, expected)
    modes = {path: path.stat().st_mode & 0o077 for path in [run.dir, *run.dir.rglob("*")]}
    assert set(modes.values()) == {0}, modes


def test_run_directory_is_shared_if_that_is_asked_for(start: Start):
    before = os.umask(0o022)
    try:
        run = start(*JOB, "--share-run-dir")
        assert run.end()[0] == 0
    finally:
        os.umask(before)
    assert (run.dir / "summary.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.slow
def test_one_host_listens_on_files_alone(start: Start, torchrun, expected):
    """But for the launcher's own store."""
    run = start(*JOB, *SLOW, launcher=[*torchrun[:-1], "--nproc_per_node=3"])
    run.await_step(0, 15)
    assert [found.laddr for found in listening(run)] == []
    assert_undisturbed(run, expected)


# The store ---------------------------------------------------------------------------------------


class Intruder(threading.Thread):
    """Writes into a launcher's open store until it is told to stop."""

    def __init__(self, port: int, write: Callable[[TCPStore], None]) -> None:
        super().__init__(daemon=True)
        self._store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=20))
        self._write = write
        self._is_over = threading.Event()
        self.num_writes = 0

    def run(self) -> None:
        while not self._is_over.wait(0.05):
            try:
                self._write(self._store)
            except RuntimeError:  # the store has gone
                return
            self.num_writes += 1

    def stop(self) -> None:
        self._is_over.set()
        self.join()


@pytest.fixture
def store_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def launched(start: Start, store_port: int) -> Callable[..., Run]:
    """Start the job under torchrun, whose store is at a known port."""

    def launch(*flags: str) -> Run:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=3"]
        where = [f"--master_port={store_port}", "--master_addr=127.0.0.1"]
        return start(*JOB, *flags, launcher=[*torchrun, *where])

    return launch


@pytest.mark.slow
def test_forged_announcement_is_not_run_by_a_new_worker(launched, store_port, tmp_path, expected):
    """It once was: the stranger's module was imported and called with the user's rights."""
    run = launched(*SLOW)
    run.await_step(1, 15)
    (tmp_path / "intruder.py").write_text(f"open({str(tmp_path / 'was-here')!r}, 'w')")

    def forge(store: TCPStore) -> None:
        (key,) = (key for key in store.list_keys() if key.endswith("/job"))
        there = store.get(key).decode()
        tag, _, text = there.partition(" ")
        said = json.loads(text)
        said["job_text"] = said["job_text"].replace('"mlp', '"intruder:build')
        said["run_dir"] = str(tmp_path / "elsewhere")
        store.set(key, f"{tag} {json.dumps(said)}")

    intruder = Intruder(store_port, forge)
    intruder._write(intruder._store)
    worker = next(
        process
        for process in psutil.Process(run.process.pid).children(recursive=True)
        if any("logs/worker-1.log" in found.path for found in process.open_files())
    )
    worker.kill()
    code, out, err = run.end()
    assert code == 0, (out, err)
    assert run.summary["weights_sha256"] == expected
    assert len(run.summary["restarts"]) == 1
    assert not (tmp_path / "was-here").exists()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_junk_under_every_key_of_the_store_changes_nothing(launched, store_port, expected):
    """The key `finished` once let a job wait for ever, without its weights."""
    run = launched("--faults", "slow:0@20x60+10,kill:1@35,coordinator-kill@45")
    run.await_step(0, 15)

    def spoil(store: TCPStore) -> None:
        ours = [key for key in store.list_keys() if key.startswith("loco/")]
        (run_id,) = (key.split("/")[1] for key in ours if key.endswith("/edge/0"))
        for key in (*ours, f"loco/{run_id}/finished"):
            store.set(key, "1")

    intruder = Intruder(store_port, spoil)
    intruder.start()
    code, out, err = run.end()
    intruder.stop()
    assert code == 0, (out, err)
    assert intruder.num_writes > 10
    assert run.summary["weights_sha256"] == expected
    assert [restart["block"] for restart in run.summary["restarts"]] == [1]
    assert_nothing_is_left(run)


# The network -------------------------------------------------------------------------------------


def dealer(context: zmq.Context, port: int, mechanism: str, identity: bytes) -> zmq.Socket:
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.setsockopt(zmq.IDENTITY, identity)
    if mechanism == "PLAIN":
        stranger.setsockopt(zmq.PLAIN_USERNAME, b"1")
        stranger.setsockopt(zmq.PLAIN_PASSWORD, b"0" * 64)
    if mechanism == "CURVE":
        public, secret = zmq.curve_keypair()
        stranger.setsockopt(zmq.CURVE_SERVERKEY, public)
        stranger.setsockopt(zmq.CURVE_PUBLICKEY, public)
        stranger.setsockopt(zmq.CURVE_SECRETKEY, secret)
    stranger.connect(f"tcp://127.0.0.1:{port}")
    return stranger


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.mark.slow
def test_strangers_at_every_port_are_refused_and_counted(start: Start, context, expected):
    """A forged result, a squatted name, a silent peer that would share in the activations, garbage,
    a port scan: none is heard, and none hears anything."""
    run = start(*JOB, "--link", "zmq-tcp", *SLOW)
    run.await_step(0, 15)
    ports = sorted({found.laddr.port for found in listening(run)})
    assert len(ports) == 3, "two edges and the coordinator"
    strangers = [
        dealer(context, port, mechanism, identity)
        for port in ports
        for mechanism in ("NULL", "PLAIN", "CURVE")
        for identity in (b"1/0", b"0/0")
    ]
    raw = [socket.create_connection(("127.0.0.1", port)) for port in ports for _ in range(4)]
    for number, connection in enumerate(raw):
        connection.sendall([b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\0"][number % 4])
    deadline_s = time.monotonic() + 5.0
    while time.monotonic() < deadline_s:
        for stranger in strangers:
            for frames in ([b"junk"], [b"result", b"\x80", b"weights"], [b"x" * 100_000]):
                with contextlib.suppress(zmq.Again):  # it has been sent away
                    stranger.send_multipart(frames, zmq.NOBLOCK)
        time.sleep(0.2)
    assert [stranger for stranger in strangers if stranger.poll(0)] == [], "they hear nothing"
    for opened in (*raw, *strangers):
        opened.close()
    code, out, err = run.end()
    assert code == 0, (out, err)
    assert run.summary["weights_sha256"] == expected
    assert run.summary["restarts"] == []
    assert run.summary["refused"] >= len(strangers)
    assert "  refused " in out, "in the live line"
    assert f"refused: {run.summary['refused']} connections" in out


@pytest.mark.slow
def test_more_silent_connections_than_a_process_may_open_files_end_nothing(start: Start, expected):
    """A report once failed for want of a file descriptor, and took its worker along."""
    few_files = ["bash", "-c", 'ulimit -n 256; exec "$0" "$@"', sys.executable]
    run = start(*JOB, "--link", "zmq-tcp", *SLOW, launcher=few_files)
    run.await_step(0, 15)
    ports = sorted({found.laddr.port for found in listening(run)})
    silent = []
    for number in range(400 * len(ports)):
        with contextlib.suppress(OSError):
            silent.append(socket.create_connection(("127.0.0.1", ports[number % 3]), timeout=1))
    code, out, err = run.end()
    for opened in silent:
        opened.close()
    assert code == 0, (out, err)
    assert run.summary["weights_sha256"] == expected
