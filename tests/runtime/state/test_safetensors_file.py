"""A state becomes a safetensors file in pieces, bit for bit."""

import pytest
import safetensors.torch
import torch
from torch import Tensor

from runtime.state.safetensors_file import DTYPES, file_pieces, joined

from .states import STATE, assert_same, random_bits


def file_of(tensors: dict[str, Tensor]) -> bytes:
    return b"".join(file_pieces(tensors))


def test_pieces_are_a_safetensors_file(tmp_path):
    (tmp_path / "state.safetensors").write_bytes(file_of(STATE))
    assert_same(safetensors.torch.load_file(tmp_path / "state.safetensors"), STATE)
    assert_same(safetensors.torch.load(safetensors.torch.save(STATE)), STATE)


@pytest.mark.parametrize("first", [STATE, {}])
def test_files_of_a_part_become_one(first):
    second = {"message/0": random_bits((5,), torch.float32, 1), "message/1": torch.empty(0)}
    whole = joined(memoryview(file_of(first)), second)
    assert_same(safetensors.torch.load(b"".join(whole)), {**first, **second})


def test_views_and_tensors_with_gradients_are_saved_as_they_look():
    whole = torch.arange(12.0).view(3, 4)
    state = {"turned": whole.t(), "a part": whole[:, 1:3], "learned": torch.nn.Parameter(whole)}
    assert_same(safetensors.torch.load(file_of(state)), state)


def test_numbers_that_are_conjugates_by_a_mark_alone_are_saved_as_such():
    conjugate = torch.complex(torch.arange(3.0), torch.ones(3)).conj()
    found = safetensors.torch.load(file_of({"x": conjugate}))
    assert torch.equal(found["x"], conjugate.resolve_conj())


def test_names_of_any_letters_come_back():
    state = {'a "name"\\ with/every.thing é': torch.ones(2), "": torch.zeros(1)}
    assert_same(safetensors.torch.load(file_of(state)), state)


def test_bytes_are_the_tensors_own():
    tensor = torch.ones(4)
    _, view = file_pieces({"x": tensor})
    tensor.zero_()
    assert bytes(view) == bytes(16)


def test_tensor_with_two_names_is_there_twice():
    tensor = torch.arange(3.0)
    assert_same(
        safetensors.torch.load(file_of({"a": tensor, "b": tensor})), {"a": tensor, "b": tensor}
    )


def test_dtype_without_a_name_is_refused_with_those_that_have_one():
    state = {"x": torch.zeros(2, dtype=torch.complex128)}
    assert torch.complex128 not in DTYPES
    with pytest.raises(ValueError, match=r"'x' is of torch.complex128, .* store it as one of"):
        file_of(state)
