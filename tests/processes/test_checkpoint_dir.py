"""Real runs whose checkpoints lie elsewhere than their directory: in S3."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runtime.state.checkpoint import newest
from runtime.state.storage import open_storage, read
from tests.conftest import S3Server, serving_s3

from .conftest import SMALL, assert_nothing_is_left, reference_digests

QUICK = (*SMALL, "--quick-end", "--report-every-s", "0.1", "--workers", "2")


def digests(run) -> dict[str, str]:
    return {key: run.summary[key] for key in ("weights_sha256", "state_sha256")}


@pytest.mark.slow
def test_run_is_killed_stopped_and_resumed_on_hosts_that_have_none_of_its_files(start, s3):
    """Its newest checkpoint is damaged there, too. In the end, learning goes on in another cut."""
    storage = open_storage(f"{s3}/killed")
    place = ("--checkpoint-dir", storage.locate(), "--checkpoint-every", "20")
    flags = (*QUICK, "--steps", "100")
    run = start(*flags, *place, "--faults", "job-kill@70")
    run.await_step(1, 1)
    code, out, err = run.end()
    assert code == -signal.SIGKILL, out + err
    assert not (run.dir / "checkpoints").exists()
    assert_nothing_is_left(run)

    last, before = newest(storage)
    part = f"{last.name}/part-0001.safetensors"
    content = read(storage, part)
    storage.write(part, content[:-1] + bytes([content[-1] ^ 1]))
    stopped = start(*flags, *place)
    stopped.await_step(1, before.step + 5)
    stopped.process.send_signal(signal.SIGINT)
    code, _, err = stopped.end(timeout_s=30)
    assert code == 128 + signal.SIGINT
    assert f"a damaged checkpoint is passed over: {last.place}/part-0001" in err
    assert f"resumes from step {before.step} ({before.place})" in err
    assert "stopped by SIGINT; the last complete checkpoint is of step" in err

    resumed = start(*flags, *place)
    code, out, err = resumed.end()
    assert code == 0, out + err
    assert digests(resumed) == reference_digests(*flags)

    recut = start(*SMALL, "--quick-end", *place, "--workers", "3", "--steps", "105")
    code, out, err = recut.end()
    assert code == 0, out + err
    assert f"resumes from step 100 ({s3}/killed/00000100-" in err
    assert "another cut (workers 2 -> 3" in err


@pytest.fixture
def server(tmp_path) -> Iterator[S3Server]:
    with serving_s3(tmp_path) as server:
        yield server


@pytest.mark.slow
def test_store_that_is_lost_costs_checkpoints_and_not_the_run(start, server):
    """The last one, too, and that is told; the weights are in the run directory."""
    place = ("--checkpoint-dir", f"{server.url}/lost", "--checkpoint-every", "200")
    flags = (*QUICK, "--steps", "400")
    run = start(*flags, *place)
    run.await_step(1, 5)
    server.process.kill()
    code, out, err = run.end()
    assert code == 0, out + err
    told = [line for line in err.splitlines() if "was not written" in line]
    assert [line.partition(" was")[0] for line in told] == [
        f"pipeline: the checkpoint at step {step}" for step in (200, 400)
    ]
    assert all(f"({server.url}/lost); training goes on" in line for line in told)
    assert digests(run) == reference_digests(*flags)
    assert_nothing_is_left(run)


def test_store_that_is_not_there_is_refused_before_a_worker_starts(start, unreachable):
    run = start(*QUICK, "--steps", "3", "--checkpoint-dir", f"{unreachable}/run")
    code, out, err = run.end()
    assert code == 2, out + err
    (line,) = err.splitlines()
    assert f"pipeline: error: checkpoint directory '{unreachable}/run' can't be used (" in line
    assert not run.dir.exists()


@pytest.mark.slow
def test_ranks_of_torchrun_write_to_s3_and_resume_from_there(start, torchrun, s3):
    """Each has a keeper of its own, and any of them may write the manifest."""
    flags = (*SMALL, "--quick-end", "--steps", "40", "--checkpoint-every", "10")
    place = ("--checkpoint-dir", f"{s3}/ranks")
    launcher = [*torchrun, "--max-restarts=2"]
    run = start(*flags, *place, "--faults", "keeper-kill:0@36", launcher=launcher)
    code, out, err = run.end()
    assert code == 0, out + err
    assert "resumes from step" in err
    assert f"({s3}/ranks/000000" in err
    assert digests(run) == reference_digests(*flags, "--workers", "4")


def test_missing_package_is_refused_in_a_second_without_torch():
    done = subprocess.run(
        [sys.executable, "-m", "launch.pipeline", "--checkpoint-dir", "gs://bucket/run"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "pipeline: error: checkpoint-dir 'gs://bucket/run' needs the package gcsfs, which is not"
        " installed here; pip install gcsfs\n"
    )
