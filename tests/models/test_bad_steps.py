"""A step with bad numbers is left out, by the block and at both ends of each of its ties."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from models.bad_numbers import BadNumbers
from models.block import LocalBlock
from models.sequential import train


class FlatPlace:
    """A loss of 0 whose gradient is not finite."""

    uses_labels = False
    head_features = None

    def __call__(self, projections_2BD: Tensor, labels_B: Tensor) -> Tensor:
        return (projections_2BD * 0).sum().sqrt()


def copy(block: LocalBlock) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in block.state().items()}


def changed(before: dict[str, Tensor], block: LocalBlock) -> set[str]:
    now = copy(block)
    names = before.keys() | now.keys()
    return {n for n in names if n not in before or not torch.equal(before[n], now[n])}


def step_alone(block: LocalBlock, step: int) -> None:
    block.forward(step, None)
    block.update(step)
    block.apply(step, None, None)


COUNTERS = {"bad/num_bad_steps", "bad/num_in_a_row"}


@pytest.mark.parametrize("tie", ["none", "elastic", "gradient"])
@pytest.mark.parametrize("reason", ["a batch of NaN", "a poisoned loss"])
def test_bad_step_teaches_nothing_and_leaves_no_buffer(cut_blocks, tie, reason):
    poisoned = [(0, 1)] if reason == "a poisoned loss" else []
    block = cut_blocks(tie=tie, poisoned=poisoned)[0]
    step_alone(block, 0)
    views, labels = block._source(1)
    before = copy(block)
    assert any(name.endswith("running_mean") for name in before)
    block.forward(1, (views, labels) if poisoned else (views * math.nan, labels))
    assert "home/a.2.running_mean" in changed(before, block)
    block.update(1)
    block.apply(1, None, None)
    assert changed(before, block) == COUNTERS
    assert math.isnan(block.loss)
    assert block.num_bad_steps == 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "torch.optim:SGD"])
@pytest.mark.parametrize("tie", ["none", "elastic", "gradient"])
def test_block_goes_on_as_if_the_bad_step_had_not_been(cut_blocks, tie, optimizer):
    poisoned, spared = (
        cut_blocks(tie=tie, optimizer=optimizer, poisoned=p)[0] for p in ([(0, 1)], [])
    )
    for step in range(4):
        step_alone(poisoned, step)
        if step != 1:
            step_alone(spared, step)
    assert changed(copy(spared), poisoned) == {"bad/num_bad_steps"}
    assert poisoned.loss == spared.loss


@pytest.mark.parametrize("tie", ["none", "elastic", "gradient"])
def test_optimizer_that_counts_its_steps_counts_no_bad_one(cut_blocks, tie, monkeypatch):
    steps = []
    monkeypatch.setattr("models.block.step_optimizer", steps.append)
    block = cut_blocks(tie=tie, poisoned=[(0, 1)])[0]
    for step in range(3):
        step_alone(block, step)
    assert len(steps) == 2


def test_finite_loss_with_a_bad_gradient_is_bad_and_says_nan(cut_blocks):
    block = cut_blocks(objective=FlatPlace())[0]
    before = copy(block)
    step_alone(block, 0)
    assert math.isnan(block.loss)
    assert changed(before, block) >= COUNTERS
    assert changed(before, block) <= {*COUNTERS, "bad/last_finite_loss"}  # NaN is not itself


def test_infinite_loss_is_told_as_it_is(cut_blocks):
    class Endless(FlatPlace):
        def __call__(self, projections_2BD, labels_B):
            return projections_2BD.sum() * 0 + math.inf

    block = cut_blocks(objective=Endless())[0]
    step_alone(block, 0)
    assert block.loss == math.inf


# Ties ------------------------------------------------------------------------------------------


def test_elastic_sends_unchanged_weights_and_is_pulled_as_usual(cut_blocks):
    block = cut_blocks(tie="elastic", poisoned=[(0, 0)])[0]
    guest = parameters_to_vector(block._guest.parameters()).detach().clone()
    before = copy(block)
    block.forward(0, None)
    ties = block.update(0)
    assert torch.equal(ties.up[0], guest)
    assert ties.down is None
    assert ties.absent is False
    block.apply(0, None, (torch.zeros_like(guest),))
    pulled = parameters_to_vector(block._guest.parameters())
    torch.testing.assert_close(pulled, 0.75 * guest)
    params = {f"guest/{unit}" for unit in ("c.0.weight", "c.0.bias")}
    assert changed(before, block) - {"bad/last_finite_loss"} == params | COUNTERS


def test_gradient_has_no_term_and_takes_its_partners(cut_blocks):
    block = cut_blocks(tie="gradient", poisoned=[(0, 1)], optimizer="sgd", weight_decay=0.0)[0]
    step_alone(block, 0)
    before = copy(block)
    block.forward(1, None)
    ties = block.update(1)
    assert ties == (None, None, True)
    num_shared = sum(p.numel() for p in block._guest.parameters())
    block.apply(1, None, (torch.ones(num_shared),))
    learned = {n for n in changed(before, block) if not n.startswith("bad/")}
    shared = {f"guest/{unit}" for unit in ("c.0.weight", "c.0.bias")}
    assert learned == shared | {f"optimizer/{name}/momentum_buffer" for name in shared}


def test_absence_is_told_only_if_a_tie_is_due(cut_blocks):
    for blocks in (
        cut_blocks(tie="none", poisoned=[(0, 0)]),
        cut_blocks(overlap=0, tie="gradient", poisoned=[(0, 0)]),
        cut_blocks(cuts=(0,), tie="gradient", poisoned=[(0, 0)]),
        cut_blocks(tie="gradient"),
    ):
        blocks[0].forward(0, None)
        assert blocks[0].update(0).absent is False


def test_term_is_absent_if_only_the_block_below_waits_too(cut_blocks):
    lower, upper = cut_blocks(tie="gradient", poisoned=[(1, 0)])
    upper.forward(0, lower.forward(0, None))
    assert upper.update(0) == (None, None, True)


def shared(blocks: list[LocalBlock]) -> list[tuple[Tensor, Tensor]]:
    """Every guest's weight with its home's, and so the optimizer's state of it."""
    pairs = []
    for lower, upper in pairwise(blocks):
        guests, homes = lower.state(), upper.state()
        for name in guests:
            is_shared = name.removeprefix("optimizer/").startswith("guest/")
            if is_shared and not ("running_" in name or "num_batches" in name):
                pairs.append((guests[name], homes[name.replace("guest/", "home/")]))
        assert len(pairs) >= 4 * len(blocks[0]._borrowed)
    return pairs


@pytest.mark.parametrize("poisoned", [[(0, 1)], [(1, 1)], [(2, 1)], [(0, 1), (1, 1)], [(1, 0)]])
def test_gradient_without_lag_holds_replicas_equal_in_bad_steps(cut_blocks, poisoned):
    blocks = cut_blocks((0, 1, 3), tie="gradient", poisoned=poisoned)
    seen: list[Tensor] = []

    def compare(step: int) -> None:
        pairs = shared(blocks)
        assert all(torch.equal(guest, home) for guest, home in pairs)
        seen.append(pairs[0][0].clone())

    train(blocks, num_steps=4, lag=0, after_step=compare)
    assert [block.num_bad_steps for block in blocks] == [
        sum(at == k for at, _ in poisoned) for k in range(3)
    ]
    assert not torch.equal(seen[-1], seen[-2])


def test_late_term_of_a_bad_step_is_left_out_when_it_is_due(cut_blocks):
    """By hand: the term of step 1, due at step 2, and no other."""
    blocks = cut_blocks(tie="gradient", poisoned=[(1, 1)])
    given = []
    apply = blocks[0].apply
    blocks[0].apply = lambda step, below, above: (given.append(above), apply(step, below, above))
    train(blocks, num_steps=5, lag=1)
    assert [above is None for above in given] == [True, False, True, False, False]


# Too many --------------------------------------------------------------------------------------


def test_bad_steps_in_a_row_end_the_run_with_the_story(cut_blocks):
    steps = [(0, 0), (0, 2), (0, 3), (0, 4)]
    block = cut_blocks(poisoned=steps, max_bad_steps=3)[0]
    for step in range(4):
        step_alone(block, step)
        if step == 1:
            loss = block.loss
    block.forward(4, None)
    with pytest.raises(BadNumbers) as raised:
        block.update(4)
    message = str(raised.value)
    assert message.startswith("block of units a, b: ")
    assert "3 steps in a row, up to step 4 (loss nan)" in message
    assert "shape (10, 1, 2, 2), min 0.0" in message
    assert "0 of 40 values not finite" in message
    assert f"the last finite loss was {loss:.6g}; lower --lr (now 0.05)" in message


def test_story_tells_the_input_as_it_came(cut_blocks):
    """A unit may work in place on its input: a NaN that a clamp removes would go untold."""
    block = cut_blocks(poisoned=[(0, 0)], max_bad_steps=1)[0]
    block._home["0"].register_forward_pre_hook(lambda module, inputs: inputs[0].nan_to_num_(0.0))
    views, labels = block._source(0)
    views[0, 0, 0, 0] = math.nan
    block.forward(0, (views, labels))
    with pytest.raises(BadNumbers, match="1 of 40 values not finite"):
        block.update(0)
