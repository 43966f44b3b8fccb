"""The lock-step schedules as baselines: which microbatches serve each best."""

from benchmarks.lock_step.schedule import SCHEDULES
from benchmarks.lock_step.slept_work import SleptWork
from benchmarks.throughput import baselines
from benchmarks.throughput.baselines import best_microbatches
from benchmarks.throughput.runs import Options, slept_config
from benchmarks.throughput.slept import SleptCase, best_for_slept, run_baselines

from .best import BEST


def test_each_schedule_gets_the_microbatches_that_serve_it_best(ran):
    config = slept_config(Options(), 2, 1.0)
    best, tried = best_microbatches(lambda steps: SleptWork(config=config_of(config, steps)))
    assert best == BEST
    assert tried["1F1B"] == {2: 1.0, 4: 10.0, 8: 1.0}
    assert {case.work.steps for case in ran} == {baselines.PROBE_STEPS}


def config_of(config, steps):
    return slept_config(Options(steps=steps), config.workers, 1.0)


def test_slept_baselines_share_draws_and_ceiling_of_their_run(ran):
    config = slept_config(Options(steps=9), 2, 1.0)
    case = SleptCase(condition="stalls", config=config)
    chosen, record = best_for_slept(case)
    assert record["probes"]["GPipe"][2] == 10.0
    ran.clear()
    records = list(run_baselines(case, 5, chosen))
    assert [r["system"] for r in records] == list(SCHEDULES)
    assert {(r["run"], r["samples_per_s"], r["slept_s"]) for r in records} == {(5, 10.0, (1, 2))}
    assert {(run.work.config.jitter_seed, run.work.steps) for run in ran} == {(5, 9)}
