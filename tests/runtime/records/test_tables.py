"""The tables that a run ends with: what they show, and what they leave out."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from runtime.records.schema import (
    Accuracy,
    BlockSummary,
    Bubble,
    Seconds,
    Spread,
    Summary,
    UnitAccuracy,
)
from runtime.records.tables import render_closing


def block_of(index: int, units: tuple[str, ...], guest_units: tuple[str, ...]) -> BlockSummary:
    counts = ("bad_steps", "fenced", "damaged", "refused", "dropped_reports", "stale_ties")
    steady = Seconds(
        compute_s=10.0, overhead_s=1.0, wait_input_s=2.0, wait_credit_s=3.0, wait_tie_s=4.0
    )
    return BlockSummary(
        index=index,
        units=units,
        guest_units=guest_units,
        loss=4.25,
        probe_top1=0.5,
        utilisation=0.62,
        steady=steady,
        staleness={},
        restarts=0,
        peak_rss_bytes=400_000_000,
        **dict.fromkeys(counts, 0),
    )


@pytest.fixture
def summary() -> Summary:
    return Summary(
        samples_per_s=500.0,
        wall_s=61.24,
        time_to_first_step_s=4.1,
        steps=330,
        weights_sha256="ab",
        state_sha256="cd",
        final=Accuracy(linear_top1=0.975, knn_top1=0.981),
        units=(
            UnitAccuracy(name="stem", linear_top1=0.9, knn_top1=0.91),
            UnitAccuracy(name="layer1.0", linear_top1=0.94, knn_top1=0.95),
            UnitAccuracy(name="layer2.0", linear_top1=0.975, knn_top1=0.981),
        ),
        blocks=(
            block_of(0, ("stem",), ("layer1.0",)),
            block_of(1, ("layer1.0", "layer2.0"), ()),
        ),
        batches={"sent": 330, "trained": 660, "duplicates_dropped": 3},
        restarts=(),
        refused=0,
        bubble=Bubble(
            measured=0.45,
            shares_cores=False,
            fill_steps=3,
            microbatches=8,
            gpipe_and_1f1b=1 / 9,
            zb_h1=0.04,
        ),
    )


def closing(summary: Summary) -> list[str]:
    """The closing tables' lines, each run of spaces as one."""
    file = io.StringIO()
    render_closing(summary, Console(file=file, force_terminal=False, width=100))
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 100 for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_closing_tables(summary):
    lines = closing(summary)
    assert "0 stem (+ layer1.0) 4.250 0.500 0.900 0.910" in lines
    assert "1 layer1.0 layer2.0 4.250 0.500 0.975 0.981" in lines
    assert "stem 0.900 0.910" in lines
    assert "block 1 50.0% 5.0% 10.0% 15.0% 20.0% 0.0%" in lines
    assert "samples/s 500.0" in lines
    assert "bubble: share of time that workers waited, after the first 3 steps 45.0%" in lines
    assert "bubble of GPipe and 1F1B, 8 micro-batches, if stages were equal 11.1%" in lines
    assert "bubble of ZB-H1, 8 micro-batches, if stages were equal 4.0%" in lines
    assert "test top-1: linear 0.975, kNN 0.981" in lines
    assert "330 steps; this command took 61.2 s, its first step came after 4.1 s" in lines
    assert "batches: 330 sent, 660 trained; messages: 0 resent, 3 duplicates dropped" in lines


def test_staleness_of_ties_is_shown_if_no_lag_is_fixed(summary):
    assert not any("staleness" in line for line in closing(summary))
    found = Spread(num=330, median=-1, p95=2, max=8, counts={})
    lower, upper = summary.blocks
    upper = replace(upper, staleness={"tie_up": found, "tie_down": found})
    lines = closing(replace(summary, blocks=(lower, upper)))
    assert "block 1, from below 330 -1 2 8" in lines
    assert "block 1, from above 330 -1 2 8" in lines
    assert not any(line.startswith("block 0, from") for line in lines)


def test_figure_that_was_not_measured_shows_as_a_dash(summary):
    unknown = {"loss": None, "probe_top1": None, "steady": None}
    unmeasured = replace(
        summary,
        samples_per_s=None,
        time_to_first_step_s=None,
        final=Accuracy(),
        units=tuple(UnitAccuracy(name=unit.name) for unit in summary.units),
        blocks=tuple(replace(block, **unknown) for block in summary.blocks),
        bubble=replace(summary.bubble, measured=None),
    )
    lines = closing(unmeasured)
    assert "layer1.0 – –" in lines
    assert "0 stem (+ layer1.0) – – – –" in lines
    assert "block 0 – – – – – –" in lines
    assert "samples/s –" in lines
    assert "bubble: share of time that workers waited, after the first 3 steps –" in lines


def test_bubble_is_shown_only_if_workers_share_no_cores(summary):
    bubble = replace(summary.bubble, measured=None, shares_cores=True)
    lines = [line for line in closing(replace(summary, bubble=bubble)) if "bubble" in line]
    assert lines == ["bubble: not measured, for workers shared cores –"]


def test_one_process_has_no_bubble_to_show(summary):
    assert not [line for line in closing(replace(summary, bubble=None)) if "bubble" in line]
