"""Real runs under faults: whatever dies, the result is that of a run in which nothing did."""

import json
import os
import re
import signal

import psutil
import pytest
from PIL import Image

from .conftest import SMALL, assert_nothing_is_left, reference_digests

QUICK = (*SMALL, "--quick-end", "--report-every-s", "0.1", "--hang-timeout-s", "1.5")
FAULTS = (
    "kill:1@8",
    "stop:2@12",
    "drop:0-1@16",
    "corrupt:1-2@18",
    "corrupt-header:2-1@20",
    "nan:3@22",
    "coordinator-kill@24",
    "kill:0@27",
    "kill:1@27",
    "zombie:2@30",
    "oversize:0-1@33",
    "cut:2-1@35",
    "kill-snapshotting:0@31",
    "kill-checkpointing:1@36",
    "kill-restarting:2@42",
    "disk-full:0@40",
)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def digests(run) -> dict[str, str]:
    return {key: run.summary[key] for key in ("weights_sha256", "state_sha256")}


def fired(run) -> set[str]:
    path = run.dir / "faults.jsonl"
    return {json.loads(line)["fault"] for line in path.read_text().splitlines()}


@pytest.mark.slow
def test_run_with_sixteen_faults_ends_the_same(start):
    flags = (*QUICK, "--workers", "4", "--steps", "50", "--max-worker-restarts", "9")
    plan = ("--faults", ",".join(FAULTS), "--checkpoint-every", "10")
    run = start(*flags, *plan)
    run.await_step(3, 2)
    code, out, err = run.end()
    assert code == 0, out + err
    assert fired(run) >= set(FAULTS)
    assert digests(run) == reference_digests(*flags, *plan)
    batches = run.summary["batches"]
    assert (batches["trained"], batches["bad"]) == (200, 1)
    assert batches["replayed"] > 0
    assert [block["restarts"] for block in run.summary["blocks"]] == [2, 3, 4, 0]
    pids = [{r["pid"] for r in run.metrics() if r["block"] == k} for k in range(4)]
    assert len(pids[3]) == 1
    # The loop may not have heard of the last step, nor that its snapshot is durable.
    told = r"worker 1 was killed by SIGKILL, after [78] steps; a new one resumes from step [48]"
    assert re.search(told, out), out
    assert re.search(r"its loop has not turned for \d+\.\d s", out), out
    assert "the coordinator (pid" in err
    assert "No space left on device" in err
    assert_nothing_is_left(run)


def test_worker_that_reads_a_folder_is_restarted_and_ends_the_same(start, tmp_path):
    for index in range(40):
        file = tmp_path / f"pets/train/{'cat' if index % 2 else 'dog'}/{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (6 * index, 99, 200 - index)).save(file)
    flags = (*QUICK, "--data", f"folder:{tmp_path}/pets", "--workers", "2", "--steps", "10")
    run = start(*flags, "--faults", "kill:0@5")
    code, out, err = run.end()
    assert code == 0, out + err
    assert "worker 0 was killed by SIGKILL" in out
    assert digests(run) == reference_digests(*flags)


def test_death_of_the_fork_server_costs_restarts_and_no_more(start):
    """All processes of a host die with it, at once. What cleared up behind the second took the
    server that the first had begun for an orphan, and the job ended."""
    flags = (*QUICK, "--workers", "2", "--steps", "30")
    run = start(*flags)
    os.kill(psutil.Process(run.await_step(1, 5)["pid"]).ppid(), signal.SIGKILL)
    code, out, err = run.end()
    assert code == 0, out + err
    assert sorted(restart["block"] for restart in run.summary["restarts"]) == [0, 1]
    assert digests(run) == reference_digests(*flags)
    assert_nothing_is_left(run)


def test_blocks_that_share_unequally_are_healed_and_recut(start):
    """Guests of one and of two units, which follow their homes, in bfloat16."""
    flags = (*QUICK, "--tie", "follow", "--precision", "bf16")
    cut = (*flags, "--workers", "3", "--overlap", "1,2", "--steps", "40")
    run = start(*cut, "--faults", "kill:0@10,kill:1@20")
    code, out, err = run.end()
    assert code == 0, out + err
    assert [restart["block"] for restart in run.summary["restarts"]] == [0, 1]
    assert digests(run) == reference_digests(*cut)

    other = (*flags, "--workers", "2", "--overlap", "2", "--steps", "60")
    code, out, err = start(*other, run_dir=run.dir).end()
    assert code == 0, out + err
    assert "another cut (workers 3 -> 2" in err
    assert "re-cloned as a guest" in out


@pytest.mark.slow
@pytest.mark.parametrize("link", ["gloo", "zmq-tcp"])
def test_links_over_a_wire_heal_too(link, start):
    """The test above shares memory; what crosses a wire can be damaged on it."""
    flags = (*QUICK, "--workers", "3", "--steps", "40", "--link", link)
    plan = ["kill:1@8", "corrupt:0-1@16", "truncate:2-1@20", "drop:1-2@24", "cut:1-0@28"]
    run = start(*flags, "--faults", ",".join(plan))
    code, out, err = run.end()
    assert code == 0, out + err
    assert fired(run) >= set(plan)
    assert digests(run) == reference_digests(*flags)
    assert run.summary["batches"]["trained"] == 3 * 40


@pytest.mark.slow
def test_run_is_stopped_resumed_extended_twice_and_recut(start):
    """What an extended run ended with, no other program could compute: its schedule was lost."""
    flags = (*QUICK, "--workers", "2", "--steps", "150")
    run = start(*flags)
    run.await_step(1, 5)
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.end(timeout_s=30)
    assert code == 128 + signal.SIGINT
    assert "stopped by SIGINT; the last complete checkpoint is of step" in err
    assert f"--run-dir {run.dir}" in err
    assert_nothing_is_left(run)

    refused = start(*flags, "--lr", "0.5", run_dir=run.dir)
    code, _, err = refused.end()
    assert code == 2
    assert "other settings (lr 0.002 -> 0.5)" in err

    for before, steps in ((150, 170), (170, 190)):
        longer = (*QUICK, "--workers", "2", "--steps", str(steps))
        code, out, err = start(*longer, run_dir=run.dir).end()
        assert code == 0, out + err
        assert "resumes from step" in err
        assert f"{before} steps become {steps}; from step" in err
        assert digests(run) == reference_digests("--config", str(run.dir / "config.toml"))
        assert digests(run) != reference_digests(*longer)

    code, _, err = start(*longer, run_dir=run.dir).end()
    assert code == 0
    assert "holds a finished run of 190 steps" in err

    other = ("--config", str(run.dir / "given.toml"), "--workers", "3", "--steps", "200")
    code, out, err = start(*other, run_dir=run.dir).end()
    assert code == 0, out + err
    assert "another cut (workers 2 -> 3" in err
    assert "re-cloned as a guest" in out


@pytest.mark.slow
def test_damaged_checkpoint_is_passed_over_when_a_job_is_resumed(start):
    """The whole job was killed."""
    flags = (*QUICK, "--workers", "2", "--steps", "200")
    plan = ("--checkpoint-every", "50", "--faults", "flip:1@100,job-kill@140")
    run = start(*flags, *plan)
    run.await_step(1, 1)
    code, _, _ = run.end()
    assert code == -signal.SIGKILL
    assert_nothing_is_left(run)
    code, out, err = start(*flags, *plan, run_dir=run.dir).end()
    assert code == 0, out + err
    assert "a damaged checkpoint is passed over" in err
    assert "resumes from step 50" in err
    assert digests(run) == reference_digests(*flags)


@pytest.mark.slow
def test_dead_keeper_is_resumed_from_the_checkpoint_by_torchrun(start, torchrun):
    flags = (*QUICK, "--steps", "40", "--checkpoint-every", "10")
    launcher = [*torchrun, "--max-restarts=2"]
    run = start(*flags, "--faults", "kill:1@8,keeper-kill:0@26", launcher=launcher)
    run.await_step(3, 1)
    code, out, err = run.end()
    assert code == 0, out + err
    assert digests(run) == reference_digests(*flags, "--workers", "4")
    assert len(run.summary["blocks"]) == 4
    assert "resumes from step" in err
    assert_nothing_is_left(run)


def test_bad_numbers_in_a_row_end_the_run_without_a_restart(start):
    """The message has their figures."""
    plan = ",".join(f"nan:1@{step}" for step in (12, 20, 21, 22))
    run = start(
        *(*QUICK, "--workers", "2", "--steps", "60", "--max-bad-steps", "3"),
        *("--faults", plan, "--checkpoint-every", "10"),
    )
    code, _, err = run.end()
    assert code == 1
    assert "worker 1 (pid" in err
    assert "3 steps in a row, up to step 22" in err
    assert "the last finite loss was" in err
    assert "Traceback" not in err
    assert "the last complete checkpoint is of step" in err


def test_second_interrupt_does_not_wait_for_a_stopped_worker(start):
    run = start(*SMALL, "--steps", "100000", "--workers", "2")
    os.kill(run.await_step(1, 2)["pid"], signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    run.await_error("stopping at a checkpoint")
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.end(timeout_s=9)
    assert code == 128 + signal.SIGINT
    assert "stopped by SIGINT; at once" in err
    assert "Traceback" not in err
    assert_nothing_is_left(run)
