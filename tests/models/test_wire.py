"""What an edge rounds, and to what, by hand."""

import pytest
import torch

from models.wire import EXACT, Wire

BF16, FP16 = Wire(precision="bf16"), Wire(precision="fp16")
UNTOUCHED = (
    *(torch.bfloat16, torch.float16, torch.float8_e4m3fn),
    *(torch.int64, torch.uint8, torch.bool, torch.complex64),
)


@pytest.mark.parametrize("computed", [torch.float32, torch.float64])
def test_wider_floating_numbers_cross_in_the_wires_type(computed):
    assert BF16.activation_dtype(computed) is torch.bfloat16
    assert FP16.activation_dtype(computed) is torch.float16
    assert EXACT.activation_dtype(computed) is computed


@pytest.mark.parametrize("computed", UNTOUCHED)
@pytest.mark.parametrize("wire", [BF16, FP16, EXACT])
def test_other_types_cross_as_they_are(wire, computed):
    assert wire.activation_dtype(computed) is computed
    wire = Wire(precision=wire.precision, activation=computed, rounds_ties=True)
    assert wire.tie_dtype(computed) is computed
    assert not wire.rounds_activations
    tensor = torch.zeros(3).to(computed)
    assert wire.restore(tensor) is tensor


def test_ties_are_rounded_only_if_asked_for():
    assert BF16.tie_dtype(torch.float32) is torch.float32
    assert Wire(precision="bf16", rounds_ties=True).tie_dtype(torch.float32) is torch.bfloat16
    assert Wire(rounds_ties=True).tie_dtype(torch.float32) is torch.float32


@pytest.mark.parametrize("computed", [torch.float32, torch.float64])
def test_activation_comes_back_in_its_type_with_the_rounded_values(computed):
    wire = Wire(precision="bf16", activation=computed)
    sent = torch.tensor([1 + 2**-9, 1 + 3 * 2**-8, -3.0], dtype=computed).to(torch.bfloat16)
    back = wire.restore(sent)
    assert back.dtype is computed
    assert back.tolist() == [1.0, 1 + 2**-6, -3.0]  # of two as near, the even one
