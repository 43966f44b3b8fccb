"""What the throughput benchmark makes of its records."""

import io

import pytest
from rich.console import Console

from benchmarks.throughput.report import draw, print_report, summarise
from benchmarks.throughput.runs import Options, slept_config
from benchmarks.throughput.slept import UNDISTURBED, SleptCase

CONFIG = slept_config(Options(steps=40), 4, 1.0)


def make_record(system: str, run: int, rate: float, *, condition: str = UNDISTURBED, **extra):
    case = SleptCase(condition=condition, config=CONFIG)
    return case.facts | {
        "run": run,
        "system": system,
        "samples_per_s": rate,
        "ceiling": "slowest block",
        "ceiling_samples_per_s": 20.0,
        **extra,
    }


RECORDS = [
    make_record("this runtime", 0, 19.0),
    make_record("GPipe", 0, 8.0, microbatches=4),
    make_record("this runtime", 1, 17.0),
    make_record("GPipe", 1, 10.0, microbatches=4),
    make_record("this runtime", 2, 18.0),
    {"workers": 4, "probes": {"GPipe": {4: 10.0}}},
    make_record("this runtime", 0, 9.0, condition="stalls often"),
    make_record("GPipe", 0, 7.2, condition="stalls often", microbatches=8),
]


def test_summary_has_medians_shares_and_what_stalls_leave():
    plain, stalled = summarise(RECORDS)
    assert plain.title == "4 slept blocks, 1 MB activations, ties of 1 MB"
    ours, gpipe = plain.rows
    assert (ours.system, ours.num_runs, ours.samples_per_s) == ("this runtime", 3, 18.0)
    assert ours.share == pytest.approx((0.9, 0.85, 0.95))
    assert ours.kept is None
    assert gpipe.system == "GPipe * m=4"
    assert stalled.condition == "stalls often"
    assert [row.kept for row in stalled.rows] == pytest.approx([9 / 18, 7.2 / 9])


def test_case_without_undisturbed_runs_has_no_share_left():
    (stalled,) = summarise(RECORDS[-2:])
    assert [row.kept for row in stalled.rows] == [None, None]


def test_report_fits_a_plain_console():
    file = io.StringIO()
    print_report(RECORDS, Console(file=file, width=110))
    text = file.getvalue()
    assert "GPipe * m=4" in text
    assert "splits the loss batch" in text
    assert "…" not in text


def test_picture_is_drawn(tmp_path):
    draw(RECORDS, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
