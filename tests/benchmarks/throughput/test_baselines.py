"""The lock-step schedules as baselines: what is chosen for them, and what is made of their runs."""

import pytest

from benchmarks.lock_step.processes import LockStepTiming
from benchmarks.lock_step.rank import SCHEDULES
from benchmarks.lock_step.slept_work import SleptWork
from benchmarks.throughput import baselines
from benchmarks.throughput.baselines import best_microbatches
from benchmarks.throughput.real import (
    BATCH_SIZE,
    RealCase,
    best_for_real,
    real_systems,
    run_real_baselines,
)
from benchmarks.throughput.runs import Options, slept_config
from benchmarks.throughput.slept import SleptCase, best_for_slept, run_baselines
from launch.resolve import restore

CASE = RealCase(workers=2, steps=30, lag=1, window=2)
BEST = {name: 2 * factor for name, factor in zip(SCHEDULES, (1, 2, 4, 2), strict=True)}


@pytest.fixture
def ran(monkeypatch):
    """The cases that were run: each schedule makes 10 batches a second with its best number of
    microbatches, and 1 with others."""
    cases = []

    def run_lock_step(given, *, wan=""):
        del wan
        cases.extend(given)
        for case in given:
            rate = 10.0 if BEST[case.schedule] == case.microbatches else 1.0
            yield LockStepTiming(
                batches_per_s=rate, loss=0.5, slept_s=(1.0, 2.0), peak_rss_bytes=(7, 8)
            )

    monkeypatch.setattr(baselines, "run_lock_step", run_lock_step)
    return cases


def test_each_schedule_gets_the_microbatches_that_serve_it_best(ran):
    config = slept_config(Options(), 2, 1.0)
    best, tried = best_microbatches(lambda steps: SleptWork(config=config_of(config, steps)))
    assert best == BEST
    assert tried["1F1B"] == {2: 1.0, 4: 10.0, 8: 1.0}
    assert {case.work.steps for case in ran} == {baselines.PROBE_STEPS}


def config_of(config, steps):
    return slept_config(Options(steps=steps), config.workers, 1.0)


def test_slept_baselines_have_the_draws_of_their_run_and_its_ceiling(ran):
    config = slept_config(Options(steps=9), 2, 1.0)
    case = SleptCase(condition="stalls", config=config)
    chosen, record = best_for_slept(case)
    assert record["probes"]["GPipe"][2] == 10.0
    ran.clear()
    records = list(run_baselines(case, 5, chosen))
    assert [r["system"] for r in records] == list(SCHEDULES)
    assert {(r["run"], r["samples_per_s"], r["slept_s"]) for r in records} == {(5, 10.0, (1, 2))}
    assert {(run.work.config.jitter_seed, run.work.steps) for run in ran} == {(5, 9)}


def test_real_baselines_train_gims_blocks_and_the_network_with_one_head(ran):
    ours = [
        {"system": "LoCo, 2 workers", "ceiling_samples_per_s": 1.0},
        {"system": "GIM, 2 workers", "ceiling_samples_per_s": 900.0},
    ]
    chosen, _ = best_for_real(CASE)
    assert chosen == {"blocks": BEST, "top": BEST}
    ran.clear()
    records = list(run_real_baselines(CASE, 3, chosen, ours))
    assert [r["system"] for r in records] == [
        name + heads for heads in ("", ", one head") for name in SCHEDULES
    ]
    assert {r["samples_per_s"] for r in records} == {10.0 * BATCH_SIZE}
    assert {r["ceiling_samples_per_s"] for r in records} == {900.0}
    assert [run.work.heads for run in ran] == ["blocks"] * 4 + ["top"] * 4
    assert {run.work.steps for run in ran} == {CASE.steps}
    config = restore(ran[0].work.resolved).config
    assert (config.overlap, config.tie, config.batch_size) == (0, "none", BATCH_SIZE)


def test_workers_have_a_thread_each_and_one_process_all_cores():
    loco, gim, one = (flags for _, flags in real_systems(CASE).values())
    assert "--overlap" not in loco
    assert [flags[flags.index("--threads") + 1] for flags in (loco, gim)] == ["1", "1"]
    assert gim[gim.index("--overlap") + 1] == one[one.index("--overlap") + 1] == "0"
    assert int(one[one.index("--threads") + 1]) >= 1


def test_real_baselines_on_more_workers_are_refused():
    assert Options(blocks="real", baselines=True, workers=(2,)).baselines
    with pytest.raises(ValueError, match=r"baselines on 2,4 workers; .* give --workers 2"):
        Options(blocks="real", baselines=True, workers=(2, 4))
