"""The plain loop learns the very bits of the block that it is compared with."""

import dataclasses
import json

import pytest
import torch

from benchmarks.plain_loop.comparison import KINDS, WARM_UP, Options, PlainLoop, main, measure

SMALL = Options(model="resnet18-cifar-w4", batch_size=4, steps=2, threads=1)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_loop_and_block_learn_the_same_bits_in_every_kind():
    records = list(measure(SMALL))
    assert [record["kind"] for record in records] == list(KINDS)
    for record in records:
        assert record["same_bits"], record["kind"]
        assert [len(found) for found in record["seconds"].values()] == [2, 2]


def test_loop_that_learns_otherwise_is_told_and_ends_with_1(monkeypatch, capsys, tmp_path):
    """The table said DIFFERENT, and the exit code 0."""
    step = PlainLoop.step

    def step_but_the_last(self, index):
        if index < WARM_UP + SMALL.steps - 1:
            step(self, index)

    monkeypatch.setattr(PlainLoop, "step", step_but_the_last)
    results = tmp_path / "results.jsonl"
    with pytest.raises(SystemExit) as ended:
        main(dataclasses.replace(SMALL, kinds=("fp32",), json=results))
    assert ended.value.code == 1
    assert "DIFFERENT" in capsys.readouterr().out
    (record,) = map(json.loads, results.read_text().splitlines())
    assert not record["same_bits"]
    assert record["header"]["commit"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"threads": 0}, "threads 0 is not allowed"),
        ({"model": "resnet81"}, "no model named 'resnet81'"),
        ({"batch_size": 1000}, "batch size 1000 for 512 training images"),
        ({"steps": 0}, "steps 0; give at least 1"),
        ({"kinds": ()}, "no kinds; give some of fp32 channels-last bf16"),
        ({"kinds": ("fp8",)}, "kinds fp8; give some of fp32 channels-last bf16"),
    ],
)
def test_what_cannot_be_compared_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        next(measure(dataclasses.replace(SMALL, **wrong)))
