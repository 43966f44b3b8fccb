"""What a plan prints for one small run: every figure by hand, but for FLOPs and memory.

Those and the notes have tests of their own; test_plan prints a plan as a user does.
"""

import dataclasses
import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from launch.planning.memory import block_memory
from launch.planning.report import render_plan
from models import host_memory

from ..runs import MACHINE, light
from .test_rates import EQUAL

ONE_PROCESS = "one process, end to end, with 1 thread too"


def printed(run, *, cores: int = 2, memory_mb: float = 1e6, monkeypatch) -> list[str]:
    """The plan's lines, each run of spaces as one."""
    monkeypatch.setattr(host_memory, "total_bytes", lambda: memory_mb * 1e6)
    file = io.StringIO()
    environment = dataclasses.replace(MACHINE, cores=cores)
    render_plan(run, Console(file=file, width=120), environment=environment)
    return [" ".join(line.split()) for line in file.getvalue().splitlines()]


def measured(**settings: object):
    """A run whose four units take 3 s each, a third of it forward, and whose heads take nothing."""
    return dataclasses.replace(light(**settings), measured=EQUAL)


@pytest.fixture
def show(monkeypatch):
    return lambda run, **machine: printed(run, monkeypatch=monkeypatch, **machine)


def row(lines: list[str], label: str) -> str:
    (found,) = [line.removeprefix(label).strip() for line in lines if line.startswith(label)]
    return found


def test_first_line_is_what_was_resolved(show):
    lines = show(light(workers=2, lag=2, batch_size=60))
    assert lines[0] == (
        "mlp, 2 workers, batch 60 in two views, overlap 1, tie elastic, lag 2, window 3, cuts 0,1"
    )


def test_edges_that_round_are_shown_with_what_crosses_them(show):
    """Batch 60 in two views: 120 x 64 numbers up, and 64 x 64 + 64 of a tie."""
    plain = show(light(workers=2, cuts=(0, 1), batch_size=60))
    lines = show(light(workers=2, cuts=(0, 1), batch_size=60, wire_precision=("bf16",)))
    assert lines[0] == plain[0] + ", wire bf16"
    ties = light(workers=2, cuts=(0, 1), batch_size=60, wire_precision=("bf16",), wire_ties=True)
    assert show(ties)[0] == plain[0] + ", wire bf16, ties too"
    labels = 60 * 8
    for found, sent, tie in ((plain, 4, 4), (lines, 2, 4), (show(ties), 2, 2)):
        memory = found[found.index(next(line for line in found if "sent up" in line)) :]
        row = next(line for line in memory if line.startswith("0 ")).split()
        expected = 120 * 64 * sent + labels, (64 * 64 + 64) * tie
        assert row[-2:] == [f"{size / 1e6:.2f}" for size in expected]


def test_measured_times_are_shown_as_milliseconds_and_rates(show):
    """Cuts 0, 2 and a guest of one unit: 3 + 3 + 3 s in the lower block, 3 + 3 above."""
    lines = show(measured(workers=2, cuts=(0, 2), batch_size=60))
    lower, upper = (row(lines, f"{k} fc{2 * k}").split() for k in (0, 1))
    assert lower[-2:] == ["9000.0", "100%"]
    assert upper[-2:] == ["6000.0", "67%"]
    assert row(lines, "this pipeline, a device or cores for every worker") == "6.7 1.33 x"
    assert row(lines, "this pipeline on 2 cores") == "6.7 1.33 x"
    assert row(lines, "these blocks in one process, one after another") == "4.0 0.80 x"
    assert row(lines, ONE_PROCESS) == "5.0 1.00 x"


def test_source_stands_above_block_0_and_counts_in_its_step(show):
    """Block 0 takes 9 s for what it learns and 2 s for its batch, end to end 12 and 2."""
    costs = dataclasses.replace(EQUAL, source=2.0)
    run = dataclasses.replace(
        light(workers=2, cuts=(0, 2), batch_size=60), measured=costs, source_s=2.0
    )
    lines = show(run)
    assert row(lines, "source: batch, views").split() == ["–", "–", "2000.0", "18%"]
    at = [i for i, line in enumerate(lines) if line.startswith(("source: batch", "0 fc0"))]
    assert at[1] == at[0] + 1
    assert row(lines, "0 fc0").split()[-2:] == ["11000.0", "100%"]
    assert row(lines, "1 fc2").split()[-2:] == ["6000.0", "55%"]
    assert row(lines, ONE_PROCESS) == "4.3 1.00 x"


def test_source_stands_above_block_0_beside_counted_flops_too(show):
    run = dataclasses.replace(light(workers=2), source_s=0.0123, learning_s=0.0122)
    lines = show(run)
    assert row(lines, "source: batch, views").split() == ["–", "–", "12.3", "–"]
    assert row(lines, "0 fc0").split()[-2:] == ["24.5", "100%"]
    assert row(lines, "1 fc").split()[-2] == "–"
    told = "block 0 takes 12.3 ms a step for its batch and the views of it, and 12.2 ms for what it"
    assert told in "".join(lines)
    assert "source is slow" not in "".join(show(dataclasses.replace(run, learning_s=0.0124)))
    assert not [line for line in show(light(workers=2)) if "source" in line]


def test_memory_that_this_machine_lacks_is_told(show):
    run = light(workers=2)
    took_mb = sum(block_memory(run, block).total for block in run.partition.blocks) / 1e6
    for share, lacks in ((1.01, False), (0.99, True)):
        lines = show(run, memory_mb=share * took_mb)
        assert ("too little for this run" in "".join(lines)) is lacks


def test_counted_flops_give_ratios_and_no_times(show):
    lines = show(light(workers=2))
    assert row(lines, ONE_PROCESS) == "– 1.00 x"
    assert row(lines, "0 fc0").split()[-2:] == ["–", "100%"]
    assert any(line.startswith("Figures are relative, from counted FLOPs") for line in lines)


def test_cores_that_workers_share_bind_the_pipeline(show):
    lines = show(measured(workers=2, cuts=(0, 2), threads=1), cores=1)
    one_by_one = row(lines, "these blocks in one process, one after another")
    assert row(lines, "this pipeline on 1 core") == one_by_one


def test_edge_has_both_inequalities(show):
    """f of the lower block is 2 s and C above 6 s, in steps of 9 s."""
    lines = show(measured(workers=2, cuts=(0, 2), lag=1, window=2))
    assert row(lines, "0-1").split() == ["0.89", "2", "0.67", "2", "yes", "<=", "0.56"]
    lines = show(measured(workers=4, lag=0))
    assert row(lines, "0-1").split() == ["1.17", "1", "1.00", "2", "no,", "86%", "<=", "0.00"]
    lines = show(measured(workers=2, cuts=(0, 2), tie="none"))
    assert row(lines, "0-1").split()[:2] == ["–", "–"]


def test_lock_step_schedules_idle_by_their_formulas(show):
    lines = show(measured(workers=4, lag=0))
    assert row(lines, "GPipe, 1F1B: (P-1)/(m+P-1)") == "43% 27% 16% 9%"
    assert row(lines, "zero-bubble ZB-H1: (P-1)/(3m+P-1), arXiv 2401.10241") == "20% 11% 6% 3%"
    assert row(lines, "this pipeline, once it is full (ties)") == "14% 14% 14% 14%"


def test_memory_on_a_gpu_is_apart_from_the_hosts(show, monkeypatch):
    gpu = SimpleNamespace(total_memory=16e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    run = light(workers=2)
    lines = show(dataclasses.replace(run, config=dataclasses.replace(run.config, device="cuda")))
    begin = next(i for i, line in enumerate(lines) if line.startswith("block, MB"))
    assert lines[begin].endswith("snapshot checkpoint on GPU on host sent up tie")
    for line, block in zip(lines[begin + 1 :], run.partition.blocks, strict=False):
        took = block_memory(run, block)
        assert line.split()[7:9] == [f"{took.on_gpu / 1e6:,.1f}", f"{took.on_host / 1e6:,.1f}"]
    assert any("of 16,000 MB: it fits" in line for line in lines)


def test_memory_has_a_row_a_block_and_the_top_sends_nothing(show):
    lines = show(light(workers=2, batch_size=60))
    begin = lines.index(next(line for line in lines if line.startswith("block, MB")))
    lower, upper = (line.split() for line in lines[begin + 1 : begin + 3])
    # 64 features of 120 samples, and a guest of 64 x 64 weights and 64 biases, in float32
    assert lower[-2:] == ["0.03", "0.02"]
    assert upper[-2:] == ["–", "–"]
    for cells in (lower, upper):
        *parts, total = map(float, cells[1:8])
        assert sum(parts) == pytest.approx(total, abs=0.4)
    in_all = row(lines, "in all").split()
    both = zip(in_all, lower[1:8], upper[1:8], strict=True)
    assert all(float(sum_) == pytest.approx(float(a) + float(b), abs=0.1) for sum_, a, b in both)


def test_one_worker_has_no_edges_schedules_or_advice(show):
    lines = show(measured(workers=1))
    assert not [line for line in lines if "full rate" in line or "lock-step" in line]
    assert not [line for line in lines if "data parallelism" in line]


@pytest.mark.parametrize(
    ("settings", "machine", "advice"),
    [
        ({"workers": 2}, {"memory_mb": 1.0}, "it does not fit, so plain data parallelism"),
        ({"workers": 2}, {}, "data parallelism over 2 devices like this one would give up to 2 x"),
        ({"workers": 4, "overlap": 0}, {}, "data parallelism would be no faster than this plan"),
        ({"workers": 2, "max_memory_mb": 50.0}, {}, "MB of 50 MB: it fits"),
    ],
)
def test_advice_follows_from_memory_and_gain(show, settings, machine, advice):
    assert any(advice in line for line in show(measured(**settings), **machine))


def test_notes_come_before_the_advice(show):
    lines = show(measured(workers=4, lag=0))
    notes = [i for i, line in enumerate(lines) if line.startswith("note: ")]
    assert len(notes) == 2
    assert "With full overlap, which trains" in lines[notes[-1] + 1]
