"""The throughput benchmark: its cases, their ceilings, and what is made of the records."""

import io

import pytest
from rich.console import Console

from benchmarks.throughput.report import draw, print_report, summarise
from benchmarks.throughput.runs import Options, slept_config
from benchmarks.throughput.slept import (
    UNDISTURBED,
    SleptCase,
    Wan,
    ceiling,
    one_process_samples_per_s,
    slept_cases,
)
from benchmarks.throughput.step_costs import COSTS, make_step_costs_table, step_costs

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


# Cases ------------------------------------------------------------------------------------------


def test_cases_differ_in_the_condition_only():
    plain, stalled, slow = slept_cases(CONFIG, jitters=["rare:0.02x10"], imbalance=True)
    assert plain.condition == UNDISTURBED
    assert plain.config == CONFIG
    assert stalled.config.jitter == "rare:0.02x10"
    assert stalled.calm == plain.calm != slow.calm
    assert slow.config.slow_block == 2
    assert slow.condition == "block 2 2x slower"


def test_each_run_draws_its_own_stalls():
    _, stalled = slept_cases(CONFIG, jitters=["exponential:0.2"], imbalance=False)
    first, again, second = (stalled.seeded(run).make_duration_s() for run in (0, 0, 1))
    assert first(1, 5) == again(1, 5) != second(1, 5)


def test_ceilings_of_each_condition():
    plain, stalled, slow = slept_cases(CONFIG, jitters=["exponential:0.2"], imbalance=True)
    assert ceiling(plain.config) == ("slowest block", pytest.approx(1 / 0.06))
    assert ceiling(slow.config) == ("slowest block", pytest.approx(1 / 0.12))
    name, bound = ceiling(stalled.config)
    assert name == "simulated, lag 1, window 2"
    assert 0.7 < bound * 0.06 < 0.9


def test_wide_area_link_is_bound_by_compute_or_its_upward_line():
    wide, narrow = Wan(rtt_ms=50, mbit=1000), Wan(rtt_ms=50, mbit=100)
    assert ceiling(CONFIG, wide) == ceiling(CONFIG)
    assert ceiling(CONFIG, narrow) == ("bandwidth", pytest.approx(12.5 / 2))  # 2 MB a step
    far = slept_cases(CONFIG, jitters=[], imbalance=False, wan=narrow)[-1]
    assert far.condition == "round trip 50 ms, 100 Mbit/s"
    assert far.config.link == "zmq-tcp"


def test_one_process_computes_the_sum_of_all_blocks():
    _, slow = slept_cases(CONFIG, jitters=[], imbalance=True)
    assert one_process_samples_per_s(CONFIG) == pytest.approx(1 / 0.24)
    assert one_process_samples_per_s(slow.config) == pytest.approx(1 / 0.30)


def test_real_blocks_have_no_stalls():
    with pytest.raises(ValueError, match="give --blocks sleep"):
        Options(blocks="real", jitter=("exponential:0.2",))


# Records ----------------------------------------------------------------------------------------


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


def test_costs_of_a_step_are_medians_over_blocks_and_runs():
    def ours(run: int, *overhead_s: float):
        rest = dict.fromkeys(COSTS[1:], 0.4)
        blocks = [{"overhead_s": s} | rest for s in overhead_s]
        return make_record("ours", run, 19.0, link="shm", summary={"blocks": blocks})

    records = [ours(0, 0.04, 0.12), ours(1, 0.08), *RECORDS]
    case = "4 blocks, 1 MB, undisturbed"
    assert step_costs(records) == {case: {"overhead_s": 0.002} | dict.fromkeys(COSTS[1:], 0.01)}
    table = make_step_costs_table(records)
    assert table is not None
    assert [list(column.cells) for column in table.columns[:3]] == [[case], ["2.00"], ["10.00"]]
    assert make_step_costs_table(RECORDS) is None


def test_picture_is_drawn(tmp_path):
    draw(RECORDS, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
