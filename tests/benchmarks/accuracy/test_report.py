"""The accuracy benchmark's statistics by hand, and what is shown of them."""

import dataclasses
import io

import pytest
from rich.console import Console

from benchmarks.accuracy.regimes import DIGITS
from benchmarks.accuracy.report import (
    claim_cells,
    draw,
    print_report,
    summarise,
    write_markdown,
)


def make_records(top1_by_method):
    """Records of methods' linear top-1, a figure a seed; kNN is .1 below."""
    return [
        {
            "method": method,
            "seed": seed,
            "linear_top1": top1,
            "knn_top1": top1 - 0.1,
            "steps": 7,
            "train_cpu_s": 60.0,
        }
        for method, by_seed in top1_by_method.items()
        for seed, top1 in enumerate(by_seed)
    ]


RECORDS = make_records(
    {
        "end-to-end": [0.90, 0.95, 0.97],
        "GIM": [0.88, 0.94, 0.96],
        "LoCo exact": [0.91, 0.96, 0.98],
        "elastic, lag 1": [0.90, 0.96, 0.96],
    }
)


COMPARED = dataclasses.replace(
    DIGITS,
    methods={
        name: DIGITS.methods[name] for name in ("end-to-end", "GIM", "LoCo exact", "elastic, lag 1")
    },
)


# Statistics -------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed():
    rows = {row.method: row for row in summarise(RECORDS, COMPARED).rows}
    assert rows["end-to-end"].gap is None
    assert rows["end-to-end"].top1["linear_top1"].mean == pytest.approx(94.0)
    # Splits differ by far more than methods: the pairs cancel that.
    gap = rows["LoCo exact"].gap["linear_top1"]
    assert gap.mean == pytest.approx(1.0)
    assert gap.half_width == pytest.approx(0.0, abs=1e-9)
    assert rows["LoCo exact"].top1["linear_top1"].half_width > 5
    # GIM: -2, -1, -1: mean -4/3, deviation 1/sqrt(3), so 1/3 of the mean
    gap = rows["GIM"].gap["knn_top1"]
    assert gap.mean == pytest.approx(-4 / 3)
    assert gap.half_width == pytest.approx(4.30265 / 3, rel=1e-5)


def test_records_may_come_in_any_order():
    assert summarise(RECORDS[::-1], COMPARED) == summarise(RECORDS, COMPARED)


def test_method_that_misses_a_seed_is_not_compared():
    with pytest.raises(KeyError):
        summarise(RECORDS[:-1], COMPARED)


def test_claims_are_judged():
    comparisons = summarise(RECORDS, COMPARED).comparisons
    assert tuple(comparison.aim for comparison in comparisons) == DIGITS.aims
    # LoCo - GIM: 3, 2, 2 (interval .9 to 3.8); LoCo - e2e: 1; elastic - LoCo: -1, 0, -2
    assert [comparison.is_met for comparison in comparisons] == [True, True, False]


def test_interval_across_zero_does_not_show_a_gain():
    records = make_records(
        {
            "end-to-end": [0.90, 0.95, 0.97],
            "GIM": [0.91, 0.95, 0.96],
            "LoCo exact": [0.91, 0.96, 0.98],
            "elastic, lag 1": [0.91, 0.96, 0.98],
        }
    )
    comparisons = summarise(records, COMPARED).comparisons
    assert comparisons[0].gap["linear_top1"].mean > 0
    assert [comparison.is_met for comparison in comparisons] == [False, True, True]


@pytest.mark.parametrize(
    ("top1", "reached"),
    [
        ([0.90, 0.95, 0.97], "yes"),  # as good: 0, 0, 0
        ([0.88, 0.96, 0.96], "mean only"),  # -2, 1, -1: mean -.67, interval -4.5 to 3.1
        ([0.88, 0.93, 0.95], "no"),  # -2, -2, -2
    ],
)
def test_mean_that_reaches_its_aim_says_if_the_interval_does(top1, reached):
    """An aim that the mean be at least -1 was reached, "yes", by a difference whose interval goes
    far below, beside aims of which the whole interval is judged."""
    records = make_records(
        {"end-to-end": [0.90, 0.95, 0.97]}
        | dict.fromkeys(("GIM", "LoCo exact", "elastic, lag 1"), top1)
    )
    rows = {row[0]: row for row in claim_cells(summarise(records, COMPARED))}
    assert rows["LoCo exact - end-to-end"][3:] == ("mean at least -1", reached)
    assert rows["LoCo exact - GIM"][3:] == ("interval above 0", "no")


def test_report_fits_a_plain_console():
    file = io.StringIO()
    print_report(summarise(RECORDS, COMPARED), Console(file=file, width=110))
    text = file.getvalue()
    assert "LoCo exact" in text
    assert "+1.00 [+1.00, +1.00]" in text
    assert "mean of 3 seeds" in text
    assert "…" not in text


def test_result_files_lie_beside_the_runs(tmp_path):
    report = summarise(RECORDS, COMPARED)
    write_markdown(report, {"commit": "abc"}, tmp_path / "a.md")
    text = (tmp_path / "a.md").read_text("utf-8")
    assert "| GIM | 92.67 | 82.67 | -1.33 [-2.77, +0.10] | -1.33 [-2.77, +0.10] |" in text
    assert "* commit: abc" in text
    named = [dataclasses.replace(row, method="GIM, S1|S2") for row in report.rows]
    write_markdown(dataclasses.replace(report, rows=named), {}, tmp_path / "a.md")
    assert r"| GIM, S1\|S2 | 9" in (tmp_path / "a.md").read_text("utf-8")

    draw(report, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
