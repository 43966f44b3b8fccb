"""One slept stage: what it sleeps for, whole or split, and what it hands down."""

import pytest
import torch
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from benchmarks.lock_step.slept_stage import SleptStage


class Asked:
    """A sleeper that sleeps for no time and says what it was asked."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


def make_stage(*, is_first: bool = False) -> tuple[SleptStage, list[float]]:
    asked = Asked()
    stage = SleptStage(
        lambda batch: [3.0, 6.0][batch],
        forward_share=1 / 3,
        input_numel=1 if is_first else 5,
        output_numel=7,
        is_first=is_first,
        sleeper=asked,
    )
    return stage, asked.seconds


def test_full_backward_sleeps_for_both_gradients():
    stage, asked = make_stage()
    x = torch.zeros(1, 5, requires_grad=True)
    output = stage(x)
    assert asked == pytest.approx([1.0])
    output.backward(torch.ones(1, 7))
    assert asked == pytest.approx([1.0, 1.0, 1.0])
    assert output.shape == (1, 7)
    assert x.grad.shape == (1, 5)


def test_zero_bubble_schedules_run_the_two_gradients_apart():
    stage, asked = make_stage()
    stage.batch = 1
    x = torch.zeros(1, 5, requires_grad=True)
    output = stage(x)
    gradient = torch.ones(1, 7)
    _, groups = stage_backward_input((output,), [gradient], [x], stage.parameters())
    assert asked == pytest.approx([2.0, 2.0])
    stage_backward_weight(stage.parameters(), groups)
    assert asked == pytest.approx([2.0, 2.0, 2.0])


def test_first_stage_has_no_input_gradient_and_works_as_long():
    stage, asked = make_stage(is_first=True)
    stage(torch.zeros(1, 1)).backward(torch.ones(1, 7))
    assert asked == pytest.approx([1.0, 2.0])


def test_gradients_passed_down_are_not_copied():
    stage, _ = make_stage()
    x = torch.zeros(1, 5, requires_grad=True)
    stage(x).backward(torch.ones(1, 7))
    assert x.grad.data_ptr() == stage.gradient.data_ptr()
