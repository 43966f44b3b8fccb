"""Ranks that any launcher has started, by RANK, WORLD_SIZE and MASTER_ADDR alone: one job."""

import signal
import socket
from collections.abc import Callable

import psutil
import pytest

from .conftest import SMALL, Run, Start

JOB = (*SMALL, "--steps", "30", "--quick-end", "--checkpoint-every", "5")
SLOW = ("--faults", "slow:0@5x40+20")

StartRanks = Callable[..., list[Run]]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def ranks(start: Start, tmp_path, port) -> StartRanks:
    """Start some ranks of one job, all but those that are left out."""

    def start_all(number: int, *flags: str, but: tuple[int, ...] = ()) -> list[Run]:
        variables = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1"}
        variables["MASTER_PORT"] = str(port)
        return [
            start(
                *JOB,
                *flags,
                run_dir=tmp_path / "run",
                environment=variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(number)
            if rank not in but
        ]

    return start_all


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    """The weights of the same job without a launcher."""
    from .conftest import starting

    with starting(tmp_path_factory.mktemp("alone")) as start:
        run = start(*JOB, "--workers", "3")
        code, out, err = run.end()
        assert code == 0, (out, err)
        return str(run.summary["weights_sha256"])


def ends(runs: list[Run]) -> list[tuple[int, str]]:
    """Exit codes and standard errors."""
    found = [run.end() for run in runs]
    return [(code, err) for code, _, err in found]


def test_ranks_of_any_launcher_are_one_job(ranks, expected):
    """They were four complete jobs, sixteen workers, all with exit code 0; and the one that hosted
    the store never ended."""
    runs = ranks(3)
    assert [code for code, _ in ends(runs)] == [0, 0, 0]
    assert runs[0].summary["weights_sha256"] == expected


def test_rank_beyond_the_workers_is_spare_and_says_so(ranks, expected):
    runs = ranks(4, "--workers", "3")
    found = ends(runs)
    assert [code for code, _ in found] == [0, 0, 0, 0]
    assert "rank 3 is spare: the job has 3 workers" in found[3][1]
    assert runs[0].summary["weights_sha256"] == expected


@pytest.mark.slow
def test_signal_to_one_rank_stops_all_at_a_checkpoint(ranks, expected):
    """Seventeen steps were lost, and the other host's console said "54 % left 0:30" for ever."""
    runs = ranks(3, *SLOW)
    runs[0].await_step(2, 8)
    runs[2].process.terminate()
    found = ends(runs)
    assert [code for code, _ in found] == [128 + signal.SIGTERM] * 3
    told = found[0][1]
    assert "SIGTERM at rank 2 (host" in told
    assert "stopped by SIGTERM; the last complete checkpoint is of step" in told
    again = ranks(3)
    assert [code for code, _ in ends(again)] == [0, 0, 0]
    assert again[0].summary["weights_sha256"] == expected


def test_rank_that_fails_ends_all_in_seconds(ranks):
    runs = ranks(3, "--max-worker-restarts", "0", "--faults", "slow:0@5x40+20,kill:1@8")
    found = ends(runs)
    assert [code for code, _ in found] == [1, 1, 1]
    assert "rank 1 (host" in found[0][1]
    assert "has ended: worker 1 was killed by SIGKILL" in found[0][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--bind", "192.0.2.9"), "bind '192.0.2.9' is no address of this host"),
        (
            ("--lr", "0.5"),
            "started with lr 0.5, but rank 0 with 0.002; start all ranks by the same",
        ),
    ],
)
def test_rank_that_is_refused_ends_the_others(flags, message, ranks, start, tmp_path, port):
    """They waited for it, for 50 minutes; or trained by rank 0's flags, in silence."""
    runs = ranks(3, but=(2,))
    variables = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    lost = start(*JOB, *flags, run_dir=tmp_path / "run", environment=variables | {"RANK": "2"})
    code, _, err = lost.end()
    assert (code, message in err, "Traceback" in err) == (2, True, False), err
    found = ends(runs)
    assert [code for code, _ in found] == [1, 1]
    assert f"has ended: {message}" in found[0][1]
    assert "rank 2 (host" in found[0][1]


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


@pytest.mark.parametrize("variables", [{}, {"LOCAL_RANK": "1"}, TORCHRUN])
def test_rank_says_itself_what_is_wrong_with_its_own_flags(start, port, variables):
    """It ended in silence: rank 0 was to say it, which had no such flag."""
    environment = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run = start(*JOB, "--lag", "-1", environment=environment | {"RANK": "1"} | variables)
    code, _, err = run.end()
    assert code == 2
    assert "pipeline: error: lag -1" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_run_directory_of_another_rank_is_not_passed_over_in_silence(ranks, start, tmp_path, port):
    runs = ranks(3, *SLOW, but=(2,))
    variables = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    other = tmp_path / "other"
    runs.append(start(*JOB, *SLOW, run_dir=other, environment=variables | {"RANK": "2"}))
    found = ends(runs)
    assert [code for code, _ in found] == [0, 0, 0]
    assert (
        f"was started with --run-dir {other}, but the run is in {tmp_path / 'run'}" in (found[0][1])
    )
    assert not other.exists()


@pytest.mark.slow
def test_registrar_may_die_and_the_store_with_it(ranks, expected):
    """Rank 0's hosts the store."""
    runs = ranks(3, *SLOW)
    runs[0].await_step(2, 6)
    pid = runs[0].process.pid
    server = next(
        p for p in psutil.Process(pid).children() if "forkserver" in " ".join(p.cmdline())
    )
    holder = next(
        child
        for child in server.children()
        if any(c.status == psutil.CONN_LISTEN for c in child.net_connections(kind="tcp"))
    )
    holder.kill()
    found = ends(runs)
    assert [code for code, _ in found] == [0, 0, 0], found
    assert "the registrar (pid" in found[0][1]
    assert runs[0].summary["weights_sha256"] == expected
    assert runs[0].summary["restarts"] == []


@pytest.mark.slow
def test_rank_that_does_not_come_is_told_of_and_the_others_can_be_stopped(ranks):
    runs = ranks(3, but=(1,))
    runs[0].await_error("waiting for rank 1 to start")
    runs[0].process.terminate()
    assert [code for code, _ in ends(runs)] == [128 + signal.SIGTERM] * 2


@pytest.mark.slow
def test_store_that_can_not_be_hosted_is_one_message(ranks, port):
    with socket.create_server(("127.0.0.1", port)):
        (run,) = ranks(1)
        code, _, err = run.end()
    assert code == 1
    assert f"can't be hosted at MASTER_ADDR 127.0.0.1, MASTER_PORT {port}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "but not its MASTER_ADDR; set what is missing"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "RANK=2 is not below"),
    ],
)
def test_what_is_wrong_with_a_launcher_is_said_before_anything_starts(start, variables, message):
    run = start(*JOB, "--insecure-network", environment=variables)
    code, _, err = run.end()
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not run.dir.exists()
