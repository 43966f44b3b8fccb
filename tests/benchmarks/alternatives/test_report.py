"""What the comparison's table says of its records."""

import io
import math

from rich.console import Console

from benchmarks.alternatives.report import of_settings, print_report, steps_to
from benchmarks.alternatives.systems import ALONE, NEAR

CURVES = {
    "end to end": [(20, 0.3), (40, 0.45)],
    "end to end, 2 shards": [(20, 0.36), (40, 0.4)],
    "end to end, 4 microbatches": [(20, 0.2), (40, 0.3)],
    "LoCo": [(20, 0.4), (40, 0.39)],
}


def record(system, rate, *, learner="end to end", link=NEAR, peaks=(100e6,), m=1):
    return {
        "learner": {"name": learner, "microbatches": m},
        "system": system,
        "link": link,
        "samples_per_s": rate,
        "batch_size": 10,
        "peak_rss_bytes": list(peaks),
    }


RATES = [
    record(ALONE, 100.0),
    record(ALONE, 120.0),
    record(ALONE, 110.0),
    record("end to end, DDP", 50.0, learner="end to end, 2 shards", peaks=(80e6, 90e6)),
    record("end to end, 1F1B", 40.0, learner="end to end, 4 microbatches", peaks=(3e7, 4e7), m=4),
    record("LoCo", 220.0, learner="LoCo", peaks=(50e6, 60e6)),
    record("LoCo", 55.0, learner="LoCo", peaks=(50e6, 60e6), link="round trip 50 ms"),
]


def rows(targets=(0.35, 0.42)) -> dict[str, list[str]]:
    console = Console(width=200, record=True, file=io.StringIO())
    curves = [{"learner": name, "points": points} for name, points in CURVES.items()]
    print_report([*RATES, *curves], targets, console)
    lines = [line.split("  ") for line in console.export_text().splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {f"{i} {row[0]}": row[1:] for i, row in enumerate(cells) if row}


def test_only_what_was_measured_with_the_same_settings_is_shown():
    rate, other = {"settings": "a", "header": {}}, {"settings": "b", "header": {}}
    curve, longer = rate | {"curve": "short"}, rate | {"curve": "long"}
    records = [rate, other, curve, longer]
    assert of_settings(records, "a", "short") == [rate, curve]
    assert of_settings(records, "b", "short") == [other]


def test_what_another_kind_of_processor_measured_is_left_out():
    """Rates of one and curves of the other would make seconds that nobody can have."""
    first, second = ({"settings": "a", "header": {"bits": bits}} for bits in ("AMX", "AVX512"))
    assert of_settings([first, second, second], "a", "short") == [second, second]
    assert of_settings([first, second], "a", "short", bits="AMX") == [first]
    assert of_settings([first, second], "a", "short", bits="AVX2") == []


def test_steps_to_an_accuracy_are_those_of_the_first_point_that_has_it():
    assert steps_to(CURVES["end to end"], 0.3) == 20
    assert steps_to(CURVES["end to end"], 0.31) == 40
    assert steps_to(CURVES["end to end"], 0.5) == math.inf


def test_table_has_medians_shares_seconds_and_memory():
    found = rows()
    assert found[f"1 {ALONE}"] == ["110", "100", "120", "1.00", "4", "4", "100", "100"]
    assert found["2 end to end, DDP"][3:] == [".45", "4", "never", "170", "90"]
    assert found["3 end to end, 1F1B, 4 microbatches *"][4:6] == ["never", "never"]
    assert found["4 LoCo"] == ["220", "220", "220", "2.00", "1", "never", "110", "60"]


def test_far_systems_are_compared_with_the_process_that_has_no_link():
    found = rows()
    (far,) = [row for name, row in found.items() if name.endswith("LoCo") and row[0] == "55"]
    assert far[3:5] == [".50", "4"]


def test_system_without_a_curve_says_so():
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(RATES, (0.35,), console)
    assert console.export_text().count("not measured") == 5
