"""The arithmetic of a run's summary."""

import math

from runtime.records.summary import MICROBATCHES, restarts_of, spread, throughput_from_block_times


def times(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"step_s": wall, "cpu_s": cpu} for wall, cpu in pairs]


def test_the_slowest_block_binds_where_there_are_cores_enough():
    found = throughput_from_block_times(times((0.1, 0.1), (0.2, 0.2)), batch_size=10, cores=4)
    assert math.isclose(found["ceiling_samples_per_s"], 50)
    assert math.isclose(found["one_process_samples_per_s"], 10 / 0.3)
    assert math.isclose(found["ceiling_core_each_samples_per_s"], 50)


def test_all_cpu_time_over_the_cores_binds_where_there_are_not():
    found = throughput_from_block_times(times(*[(0.1, 0.1)] * 4), batch_size=10, cores=2)
    assert math.isclose(found["ceiling_samples_per_s"], 50)
    assert math.isclose(found["ceiling_core_each_samples_per_s"], 100)
    assert math.isclose(found["lock_step_samples_per_s"], 50)


def test_sleeping_needs_no_core():
    found = throughput_from_block_times(times(*[(0.1, 0.001)] * 4), batch_size=1, cores=1)
    assert math.isclose(found["ceiling_samples_per_s"], 10)


def test_lock_step_pays_its_bubble():
    found = throughput_from_block_times(times(*[(0.1, 0.1)] * 4), batch_size=10, cores=4)
    bubble = (MICROBATCHES + 3) / MICROBATCHES
    assert math.isclose(found["lock_step_samples_per_s"], 100 / bubble)


def test_a_block_that_was_not_timed_leaves_everything_open():
    found = throughput_from_block_times([None, *times((1, 1))], batch_size=1, cores=2)
    assert set(found.values()) == {None}


def restart(block: int, generation: int) -> dict[str, object]:
    facts = {"cause": "was killed", "detected_t": 5.0, "from_step": 3, "completed_before": 4}
    return {"event": "restart", "block": block, "generation": generation, **facts}


def healed(block: int, generation: int, after_s: float) -> dict[str, object]:
    return {"event": "healed", "block": block, "generation": generation, "healed_s": after_s}


def test_restarts_are_told_with_what_they_took_also_over_attempts_of_a_launcher():
    carried = {"event": "carried", "block": 0, "generation": 0, "notes": []}
    events = [
        *(carried, restart(1, 1), healed(1, 1, 0.5), restart(2, 1), restart(2, 2)),
        *(healed(2, 2, 0.7), restart(1, 1), healed(1, 1, 0.9), healed(3, 1, 0.1)),
    ]
    found = [(r["block"], r["generation"], r["healed_s"]) for r in restarts_of(events)]
    assert found == [(1, 1, 0.5), (2, 1, None), (2, 2, 0.7), (1, 1, 0.9)]
    assert restarts_of(events)[0]["cause"] == "was killed"


def test_counted_staleness_is_spread_by_its_middle_and_its_end():
    counts = {"10": 1, "-1": 2, "0": 10, "2": 7}
    found = {"num": 20, "median": 0, "p95": 2, "max": 10, "counts": counts}
    assert spread(counts) == found
    assert spread({"3": 1}) == {"num": 1, "median": 3, "p95": 3, "max": 3, "counts": {"3": 1}}
