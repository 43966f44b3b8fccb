"""How bad numbers are found, counted and reported."""

import math

import pytest
import torch

from models.bad_numbers import BadNumbers, BadSteps, all_finite, describe


def bad_steps(max_in_a_row: int = 3) -> BadSteps:
    return BadSteps(units=["stem", "layer1.0"], max_in_a_row=max_in_a_row, lr=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_found(value):
    tensors = [torch.ones(3, 4), torch.ones(5)]
    assert all_finite(tensors)
    tensors[1][3] = value
    assert not all_finite(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_values_are_finite_though_their_norm_is_not(dtype):
    large = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    assert not torch.linalg.vector_norm(large).isfinite()
    assert all_finite([large])


def test_empty_list_is_finite():
    assert all_finite([])


def test_batch_in_a_few_figures():
    x = torch.tensor([[1.0, -2.0, math.nan], [4.0, math.inf, 5.0]])
    assert describe(x) == "shape (2, 3), min -2, max 5, mean 2, 2 of 6 values not finite"
    assert describe(x[:, :0]) == "shape (2, 0), 0 of 0 values not finite"


def test_good_step_ends_the_row_and_not_the_count():
    steps = bad_steps()
    steps.failed(0, math.nan)
    steps.failed(1, math.inf)
    steps.passed(2.5)
    assert (steps.num_bad_steps, steps.num_in_a_row, steps.last_finite_loss) == (2, 0, 2.5)
    steps.failed(3, math.nan)
    assert (steps.num_bad_steps, steps.num_in_a_row, steps.last_finite_loss) == (3, 1, 2.5)


def test_last_bad_step_of_a_row_says_where_what_and_the_remedy():
    steps = bad_steps(2)
    steps.passed(0.25)
    for step in (7, 8):
        steps.look_at(torch.tensor([[float(step), math.nan]]))
        if step == 7:
            steps.failed(step, math.nan)
    with pytest.raises(BadNumbers) as raised:
        steps.failed(8, math.inf)
    assert str(raised.value) == (
        "block of units stem, layer1.0: loss, gradients or ties not finite in 2 steps in a row, up"
        " to step 8 (loss inf); its input there: shape (1, 2), min 8, max 8, mean 8, 1 of 2 values"
        " not finite; the last finite loss was 0.25; lower --lr (now 0.5) or raise"
        " --warmup-steps; if the input is not finite, look at the data and at the block below"
    )


def test_run_with_an_edge_in_fp16_is_told_how_far_that_reaches():
    steps = BadSteps(units=["a"], max_in_a_row=1, lr=0.5, has_fp16_edge=True)
    steps.look_at(torch.ones(2))
    with pytest.raises(BadNumbers, match=r"below; numbers above 65504 .* --wire-precision bf16"):
        steps.failed(0, math.nan)


def test_good_step_whose_ties_could_not_be_sent_counts_with_its_loss():
    steps = bad_steps()
    steps.failed(0, 1.5)
    assert (steps.num_bad_steps, steps.num_in_a_row, steps.last_finite_loss) == (1, 1, 1.5)


def test_run_that_was_never_good_says_so():
    steps = bad_steps(1)
    steps.look_at(torch.ones(2))
    with pytest.raises(BadNumbers, match="no step had a finite loss"):
        steps.failed(0, math.nan)


def test_bad_steps_state_is_all_of_them():
    steps, copy = bad_steps(), bad_steps()
    steps.passed(1 / 3)
    steps.failed(1, math.nan)
    steps.failed(2, math.nan)
    state = steps.state()
    assert {name: (t.dtype, t.ndim) for name, t in state.items()} == {
        "num_bad_steps": (torch.int64, 0),
        "num_in_a_row": (torch.int64, 0),
        "last_finite_loss": (torch.float64, 0),
    }
    copy.load(state)
    assert (copy.num_bad_steps, copy.num_in_a_row, copy.last_finite_loss) == (2, 2, 1 / 3)
    assert math.isnan(float(bad_steps().state()["last_finite_loss"]))


def test_row_of_none_is_refused():
    with pytest.raises(ValueError, match="max_bad_steps 0; it must be at least 1"):
        bad_steps(0)
