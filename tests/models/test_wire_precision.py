"""Blocks whose edges round: what is sent and computed on, what both ends add, what overflows."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from models.bad_numbers import BadNumbers
from models.block import LocalBlock
from models.sequential import train
from models.wire import Wire

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def wire(precision: str, *, ties: bool = True) -> Wire:
    return Wire(precision=precision, rounds_ties=ties)


def flat(parameters) -> Tensor:
    return parameters_to_vector(parameters).detach().clone()


def shared_gradients(parameters) -> Tensor:
    return parameters_to_vector([p.grad for p in parameters]).clone()


def states(blocks: list[LocalBlock]) -> list[dict[str, Tensor]]:
    return [{name: t.clone() for name, t in block.state().items()} for block in blocks]


def differ(left: list[dict[str, Tensor]], right: list[dict[str, Tensor]]) -> set[str]:
    return {
        name
        for a, b in zip(left, right, strict=True)
        for name in a
        if not torch.equal(a[name], b[name])
    }


# Activations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_activation_is_rounded_for_the_block_above_alone(cut_blocks, precision):
    lower, upper = cut_blocks(wires=[wire(precision)])
    sent, labels_B = lower.forward(0, None)
    own = lower._output_NCHW.detach()
    assert sent.dtype is DTYPES[precision]
    assert torch.equal(sent, own.to(DTYPES[precision]))
    assert not torch.equal(sent.float(), own)
    assert labels_B.dtype is torch.int64
    upper.forward(0, (sent, labels_B))
    assert upper._input_NCHW.dtype is torch.float32
    assert torch.equal(upper._input_NCHW, sent.float())


def test_edges_round_each_in_its_own_way(cut_blocks):
    blocks = cut_blocks((0, 1, 2, 3), wires=[wire("bf16"), wire("exact"), wire("fp16")])
    activation, sent = None, []
    for block in blocks:
        activation = block.forward(0, activation)
        sent.append(activation and activation[0].dtype)
    assert sent == [torch.bfloat16, torch.float32, torch.float16, None]


@pytest.mark.parametrize("tie", ["none", "elastic", "follow", "gradient"])
@pytest.mark.parametrize("lag", [0, 1])
def test_exact_wires_and_those_of_other_ties_change_nothing(cut_blocks, tie, lag):
    """Rounding ties on an edge that rounds nothing; and the control: one that does."""
    found = []
    for wires in ([], [wire("exact")] * 2, [wire("bf16", ties=False)] * 2, [wire("bf16")] * 2):
        blocks = cut_blocks((0, 1, 3), tie=tie, wires=wires)
        train(blocks, num_steps=5, lag=lag)
        found.append(states(blocks))
    without, exact, activations, ties = found
    assert not differ(without, exact)
    assert differ(exact, activations)
    assert bool(differ(activations, ties)) == (tie != "none")


def test_activation_that_overflows_makes_the_step_above_a_bad_one(cut_blocks):
    """Also if a unit hides it, as tanh does: its loss was finite."""
    lower, upper = cut_blocks((0, 2), tie="gradient", wires=[wire("fp16")])
    with torch.no_grad():
        lower._home["1"].state_dict()["1.weight"].fill_(1e5)
    hidden = upper._home["2"].register_forward_pre_hook(lambda _, x: x[0].clamp(-1, 1))
    activation = lower.forward(0, None)
    assert activation[0].isinf().any()
    assert lower.update(0).absent is False
    before = states([upper])
    upper.forward(0, activation)
    assert upper.update(0) == (None, None, True)
    assert differ(before, states([upper])) <= {
        *("bad/num_bad_steps", "bad/num_in_a_row", "bad/last_finite_loss")
    }
    assert (upper.num_bad_steps, lower.num_bad_steps) == (1, 0)
    assert math.isnan(upper.loss)
    hidden.remove()

    lower, upper = cut_blocks((0, 2), tie="gradient", wires=[wire("bf16")])
    with torch.no_grad():
        lower._home["1"].state_dict()["1.weight"].fill_(1e5)
    upper.forward(0, lower.forward(0, None))
    assert upper.update(0).absent is False


# Gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_both_ends_add_the_rounded_gradients(cut_blocks, precision):
    """By hand: of the own gradient and of the partner's."""
    dtype = DTYPES[precision]
    lower, upper = cut_blocks(tie="gradient", wires=[wire(precision)])
    plain, above = cut_blocks(tie="gradient", wires=[wire(precision, ties=False)])
    upper.forward(0, lower.forward(0, None))
    above.forward(0, plain.forward(0, None))
    ups, downs = lower.update(0), upper.update(0)
    full = plain.update(0).up[0], above.update(0).down[0]
    for (sent,), computed in zip((ups.up, downs.down), full, strict=True):
        assert sent.dtype is dtype
        assert computed.dtype is torch.float32
        assert torch.equal(sent, computed.to(dtype))
        assert not torch.equal(sent.float(), computed)
    expected = ups.up[0].float() + downs.down[0].float()
    applied = []
    for block, parameters in ((lower, lower._borrowed), (upper, upper._lent)):
        block._step_optimizer = lambda step, ps=parameters: applied.append(shared_gradients(ps))
    lower.apply(0, None, downs.down)
    upper.apply(0, ups.up, None)
    assert all(torch.equal(found, expected) for found in applied)
    assert len(applied) == 2


def test_gradient_without_a_neighbour_that_adds_it_stays_as_it_was_computed(cut_blocks):
    rounded, plain = (
        cut_blocks(tie="gradient", wires=[wire("bf16", ties=ties)])[0] for ties in (True, False)
    )
    for block in (rounded, plain):
        block.forward(0, None)
        block.update(0)
    for (name, parameter), (_, other) in zip(
        rounded._trained_by_name().items(), plain._trained_by_name().items(), strict=True
    ):
        assert torch.equal(parameter.grad, other.grad) != name.startswith("guest/"), name


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
@pytest.mark.parametrize("wires", [("bf16", "bf16"), ("fp16", "exact"), ("bf16", "fp16")])
def test_replicas_stay_equal_without_lag(cut_blocks, wires, optimizer):
    blocks = cut_blocks(
        (0, 1, 3), (1, 2), tie="gradient", optimizer=optimizer, wires=[wire(w) for w in wires]
    )
    first = flat(blocks[0]._borrowed)

    def compare(step: int) -> None:
        for lower, upper in pairwise(blocks):
            assert torch.equal(flat(lower._borrowed), flat(upper._lent)), step

    train(blocks, num_steps=6, lag=0, after_step=compare)
    assert not torch.equal(first, flat(blocks[0]._borrowed))


@pytest.mark.parametrize("lag", [0, 1])
def test_gradient_that_overflows_is_left_out_at_both_ends(cut_blocks, lag):
    """Block 1 has a finite gradient above 65504 at step 1: its term for both neighbours goes."""
    blocks = cut_blocks((0, 1, 3), tie="gradient", wires=[wire("fp16")] * 2)
    backward = blocks[1]._backward

    def overflowing(step: int) -> Tensor:
        features_ND = backward(step)
        if step == 1:
            blocks[1]._borrowed[0].grad.mul_(0).add_(7e4)
        return features_ND

    blocks[1]._backward = overflowing
    given = {0: [], 2: []}
    for k, terms in given.items():
        apply = blocks[k].apply

        def tell(step, below, above, apply=apply, terms=terms):
            terms.append((below is not None, above is not None))
            apply(step, below, above)

        blocks[k].apply = tell

    def compare(step: int) -> None:
        if lag == 0:
            for lower, upper in pairwise(blocks):
                assert torch.equal(flat(lower._borrowed), flat(upper._lent))

    train(blocks, num_steps=4, lag=lag, after_step=compare)
    assert [block.num_bad_steps for block in blocks] == [0, 1, 0]
    assert [below for below, _ in given[2]] == [True, False, True, True]
    late = [False] * lag + [True, False, True, True]
    assert [above for _, above in given[0]] == late[:4]
    assert all(p.isfinite().all() for block in blocks for p in block._trained)


def test_same_gradient_is_no_overflow_if_ties_are_not_rounded(cut_blocks):
    for chosen, bad in (
        (wire("fp16"), 1),
        (wire("fp16", ties=False), 0),
        (wire("bf16"), 0),
        (wire("exact"), 0),
    ):
        block = cut_blocks(tie="gradient", wires=[chosen])[0]
        block.forward(0, None)
        features_ND = block._backward(0)
        block._borrowed[0].grad.fill_(7e4)
        block._backward = lambda step, found=features_ND: found
        block.update(0)
        assert block.num_bad_steps == bad, chosen


def test_gradients_are_clipped_before_they_are_rounded(cut_blocks):
    block = cut_blocks(tie="gradient", wires=[wire("bf16")], grad_clip=1e-3)[0]
    block.forward(0, None)
    (up,) = block.update(0).up
    assert float(up.float().norm()) <= 1e-3 * (1 + 2**-8)
    assert torch.equal(up.float(), shared_gradients(block._borrowed))


def test_free_gradients_of_several_messages_are_added_in_the_parameters_type(cut_blocks):
    """In bf16 256 + 1 is 256."""
    block = cut_blocks(tie="gradient", wires=[wire("bf16")])[0]
    num = sum(p.numel() for p in block._borrowed)
    block._step_optimizer = lambda step: None
    for parameter in block._borrowed:
        parameter.grad = torch.zeros_like(parameter)
    terms = tuple(torch.full((num,), v, dtype=torch.bfloat16) for v in (256.0, 1.0))
    block.apply(0, None, terms)
    assert torch.equal(shared_gradients(block._borrowed), torch.full((num,), 257.0))


# Weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("tie", ["elastic", "follow"])
def test_pull_is_towards_the_rounded_weights_from_the_own_full_ones(cut_blocks, tie, precision):
    dtype = DTYPES[precision]
    lower, upper = cut_blocks(tie=tie, wires=[wire(precision)])
    upper.forward(0, lower.forward(0, None))
    ups, downs = lower.update(0), upper.update(0)
    guest, home = flat(lower._borrowed), flat(upper._lent)
    assert torch.equal(downs.down[0], home.to(dtype))
    assert not torch.equal(downs.down[0].float(), home)
    lower.apply(0, None, downs.down)
    upper.apply(0, ups.up, None)
    assert torch.equal(flat(lower._borrowed), guest.lerp(home.to(dtype).float(), 0.25))
    pulled = home.lerp(guest.to(dtype).float(), 0.25) if tie == "elastic" else home
    assert torch.equal(flat(upper._lent), pulled)


def test_weight_that_overflows_leaves_the_steps_ties_out_and_is_counted(cut_blocks):
    lower, _ = cut_blocks(tie="elastic", wires=[wire("fp16")], max_bad_steps=3)
    with torch.no_grad():
        lower._borrowed[0][0, 0] = 1e5
    for step in range(2):
        lower.forward(step, None)
        before = flat(lower._trained)
        assert lower.update(step) == (None, None, True)
        assert not torch.equal(before, flat(lower._trained)), "its own step is taken"
        assert math.isfinite(lower.loss)
        assert lower.num_bad_steps == step + 1
    with torch.no_grad():
        lower._borrowed[0][0, 0] = 1.0
    lower.forward(2, None)
    assert lower.update(2).absent is False
    with torch.no_grad():
        lower._borrowed[0][0, 0] = 1e5
    for step in range(3, 5):
        lower.forward(step, None)
        lower.update(step)
    lower.forward(5, None)
    with pytest.raises(BadNumbers, match=r"ties not finite in 3 steps .*wire-precision bf16"):
        lower.update(5)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e5])
def test_weights_are_sent_as_they_are_if_it_is_not_the_wire_that_spoils_them(cut_blocks, value):
    for chosen in (wire("exact"), wire("bf16")) if value == 1e5 else (wire("fp16"),):
        lower, _ = cut_blocks(tie="elastic", wires=[chosen])
        with torch.no_grad():
            lower._borrowed[0][0, 0] = value
        lower.forward(0, None)
        ties = lower.update(0)
        assert ties.absent is False
        assert lower.num_bad_steps == (value != 1e5)


def test_bad_step_whose_weights_overflow_is_counted_once(cut_blocks):
    lower, _ = cut_blocks(tie="elastic", wires=[wire("fp16")], poisoned=[(0, 0)])
    with torch.no_grad():
        lower._borrowed[0][0, 0] = 1e5
    lower.forward(0, None)
    assert lower.update(0).absent is True
    assert lower.num_bad_steps == 1
