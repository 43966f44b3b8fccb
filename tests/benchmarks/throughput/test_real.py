"""Real systems of the throughput benchmark, and the baselines that train the same."""

from benchmarks.lock_step.schedule import SCHEDULES
from benchmarks.throughput.real import (
    BATCH_SIZE,
    RealCase,
    best_for_real,
    real_systems,
    run_real_baselines,
)
from launch.resolve import restore

from .best import BEST

CASE = RealCase(workers=2, steps=30, lag=1, window=2)


def test_real_baselines_train_blocks_and_the_one_head_network(ran):
    """GIM's blocks, and the whole network with one head."""
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
    assert (config.overlap, config.tie, config.batch_size) == ((0,), "none", BATCH_SIZE)


def test_workers_have_a_thread_each_and_one_process_all_cores():
    loco, gim, one = (flags for _, flags in real_systems(CASE).values())
    assert "--overlap" not in loco
    assert [flags[flags.index("--threads") + 1] for flags in (loco, gim)] == ["1", "1"]
    assert gim[gim.index("--overlap") + 1] == one[one.index("--overlap") + 1] == "0"
    assert int(one[one.index("--threads") + 1]) >= 1
