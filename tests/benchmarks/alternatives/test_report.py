"""What the comparison's table says of its records."""

import io
import math

import pytest
from rich.console import Console

from benchmarks.alternatives.report import (
    of_one_place,
    of_settings,
    print_headers,
    print_report,
    steps_to,
)
from benchmarks.alternatives.systems import ALONE, NEAR
from benchmarks.harness import RESULTS, Results, make_console

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


HERE = {"machine": "EPYC, 24 GiB", "cores": "2", "commit": "new"}
MATTERS = [{"commit": "old"}, {"machine": "Xeon, 24 GiB"}, {"cores": "8"}]


@pytest.mark.parametrize("other", MATTERS, ids=lambda other: next(iter(other)))
def test_rates_of_other_code_or_another_machine_are_left_out(other):
    """They were selected by flags and kind of processor alone: one median was of rates of
    several commits and machines, under the header of whichever ran last."""
    before = {"header": HERE | other, "link": NEAR, "system": "LoCo", "steps": 15}
    now = before | {"header": HERE}
    curve = {"header": HERE | other, "points": [], "learner": "LoCo"}
    assert of_one_place([before, now, before, curve, now], 15) == [now, now, curve]
    later = curve | {"header": HERE}
    assert of_one_place([now, curve, later], 15) == [now, later]


def test_rates_are_of_one_number_of_steps():
    """Of a link that was never measured in so many, those of its newest."""
    short, long = ({"header": HERE, "link": NEAR, "system": "a", "steps": n} for n in (5, 50))
    far = {"header": HERE, "link": "far", "system": "a", "steps": 7}
    assert of_one_place([short, long, far], 5) == [short, far]
    assert of_one_place([short, long, far], 50) == [long, far]
    assert of_one_place([short, long, far], 9) == [long, far]


def test_records_of_earlier_versions_are_shown():
    records = Results(RESULTS / "alternatives.jsonl").read()
    assert "steps" not in records[0]
    assert "bits" not in records[0]["header"]
    assert of_one_place(records, 15) == records
    assert of_one_place([], 15) == []


def test_header_is_of_what_is_shown(capsys):
    rate = {"header": HERE, "system": "LoCo"}
    curve = {"header": HERE | {"commit": "old"}, "points": []}
    print_headers([rate, curve], make_console())
    said = capsys.readouterr().out
    assert said.index("rates by") < said.index("new") < said.index("curves by") < said.index("old")
    print_headers([rate, curve | {"header": HERE}], make_console())
    assert "rates and curves by" in capsys.readouterr().out


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
