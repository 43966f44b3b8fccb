"""The plan as a program: it prints, trains nothing, and refuses what the pipeline refuses."""

import pytest
import torch

from launch import plan, resolve
from launch.plan import main
from launch.planning import cuts
from models import host_memory

from .planning.test_rates import EQUAL


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def planned(capsys, *flags: str) -> str:
    assert main(list(flags)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_default_plan_is_printed(capsys):
    out = planned(capsys)
    assert "resnet-small, 4 workers, batch 64 in two views" in out
    assert "cuts 0,1,2,3" in out
    assert "       source: batch, views" in out
    assert "2      layer2.0 (+ layer3.0)     179,328          2.34          –          92%" in out
    assert "samples/s need times, which --cuts profiled measures" in out
    assert "With full overlap, which trains each unit twice, 4 workers give at most 2 x" in out
    assert "one device; with overlap 0, 4 x; this plan gives 1.57 x." in out
    assert "data parallelism over 4 devices like this one would give up to 4 x" in out
    assert "note:" not in out


def test_measured_times_give_samples_a_second(capsys, monkeypatch):
    monkeypatch.setattr(cuts, "measured_costs", lambda *_, **__: EQUAL)
    monkeypatch.setattr(resolve, "measured_source", lambda *_, **__: 0.0)
    flags = ("--model", "mlp", "--decoder-depth", "0", "--workers", "4", "--batch-size", "60")
    out = planned(capsys, *flags, "--cuts", "profiled", "--lag", "0")
    lines = [line.split() for line in out.splitlines()]
    assert ["0", "fc0", "(+", "fc1)", "53,696", "0.0344", "6000.0", "86%"] in lines
    first = next(line for line in lines if line[:2] == ["this", "pipeline,"])
    assert first[-3:] == ["8.6", "1.71", "x"]
    assert "no, 86%" in out
    assert ["this", "pipeline,", "once", "it", "is", "full", "(ties)", *["14%"] * 4] in lines
    assert "note: cuts 0,1,2,3 follow from times measured now" in out
    assert "note: lag 0 makes neighbours wait" in out


def test_data_parallelism_is_no_choice_if_memory_is_short(capsys, monkeypatch):
    monkeypatch.setattr(host_memory, "total_bytes", lambda: 9_000_000)
    out = planned(capsys, "--model", "mlp", "--decoder-depth", "0", "--batch-size", "1400")
    assert "MB of 9 MB: it does not fit, so plain data parallelism is no choice here" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_plan_for_gpus_needs_none(capsys):
    """Unless it is to time them."""
    planned(capsys, "--device", "cuda", "--link", "nccl")
    out = planned(capsys, "--device", "cuda")
    assert "checkpoint  on GPU  on host" in out
    assert "note: no GPU is seen here: this is planned as if each worker had one" in out
    assert "MB. Where that fits, data parallelism would give up to 4 x." in out
    assert main(["--device", "cuda", "--cuts", "profiled"]) == 2
    assert "no GPU is seen" in capsys.readouterr().err


def test_one_worker_has_nothing_to_compare(capsys):
    out = planned(capsys, "--workers", "1")
    assert "lock-step" not in out
    assert "data parallelism" not in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--workers 6",
            "6 workers with overlap stage don't fit a network of 5 units; at most 5 do",
        ),
        ("--lga 3", "Unknown option: --lga. Did you mean --lag?"),
        ("--max-memory-mb 5", "max-memory-mb 5 is too little: no cut into 4 blocks"),
    ],
)
def test_impossible_plan_is_one_message_and_exit_code_2(capsys, flags, message):
    assert main(flags.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"plan: error: {message}")
    assert printed.err.count("\n") == 1


def test_interrupt_ends_it_with_130(capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "resolve", interrupted)
    assert main([]) == 130
    assert capsys.readouterr().err == "plan: stopped by SIGINT\n"
