"""A state becomes bytes and comes back bit for bit; two places, of which one is always whole."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from runtime.state.image import HEAD
from runtime.state.snapshots import DTYPES, Snapshots, image_of, joined


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Any bits at all, NaNs of every kind among them; booleans are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    high = 2 if dtype is torch.bool else 256
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, high, (size,), generator=generator).byte().view(dtype).view(shape)


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


STATE = {
    f"{dtype} {shape}": random_bits(shape, dtype)
    for dtype in DTYPES
    for shape in ((3, 5), (), (0,), (2, 0, 3), (7,))
}


def assert_same(got: dict[str, Tensor], sent: dict[str, Tensor]) -> None:
    assert got.keys() == sent.keys()
    for name, tensor in sent.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(got[name]) == bits(tensor), name


def test_every_dtype_and_shape_comes_back_bit_for_bit(memory):
    Snapshots(memory.paths.snapshots).take(12, image_of(STATE))
    found = Snapshots(memory.paths.snapshots).latest()
    assert found is not None
    step, state = found
    assert step == 12
    assert_same(state, STATE)


def test_image_is_a_safetensors_file(tmp_path):
    (tmp_path / "state.safetensors").write_bytes(image_of(STATE))
    assert_same(safetensors.torch.load_file(tmp_path / "state.safetensors"), STATE)
    assert_same(safetensors.torch.load(safetensors.torch.save(STATE)), STATE)


@pytest.mark.parametrize("first", [STATE, {}])
def test_images_of_a_part_become_one(first):
    second = {"message/0": random_bits((5,), torch.float32, 1), "message/1": torch.empty(0)}
    whole = joined(image_of(first), image_of(second))
    assert_same(safetensors.torch.load(bytes(whole)), {**first, **second})


def test_views_and_tensors_with_gradients_are_saved_as_they_look():
    whole = torch.arange(12.0).view(3, 4)
    state = {"turned": whole.t(), "a part": whole[:, 1:3], "learned": torch.nn.Parameter(whole)}
    assert_same(safetensors.torch.load(bytes(image_of(state))), state)


def test_names_of_any_letters_come_back():
    state = {'a "name"\\ with/every.thing é': torch.ones(2), "": torch.zeros(1)}
    assert_same(safetensors.torch.load(bytes(image_of(state))), state)


def test_state_of_nothing_is_a_state(memory):
    Snapshots(memory.paths.snapshots).take(3, image_of({}))
    assert Snapshots(memory.paths.snapshots).latest() == (3, {})


def test_image_holds_what_was_there_when_it_was_made():
    tensor = torch.ones(4)
    image = image_of({"a": tensor})
    tensor.zero_()
    assert safetensors.torch.load(bytes(image))["a"].tolist() == [1.0] * 4


# Two places -------------------------------------------------------------------------------------


def number(step: int) -> bytearray:
    return image_of({"step": torch.tensor(step)})


def latest_step(paths: tuple[str, str]) -> int | None:
    found = Snapshots(paths).latest()
    if found is None:
        return None
    step, state = found
    assert state["step"] == step
    return step


def damage(path: str) -> None:
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)


def test_first_generation_finds_none(memory):
    assert latest_step(memory.paths.snapshots) is None


def test_places_are_written_in_turn(memory):
    snapshots = Snapshots(memory.paths.snapshots)
    for step in (4, 8, 12):
        snapshots.take(step, number(step))
        assert latest_step(memory.paths.snapshots) == step
    first, second = memory.paths.snapshots
    damage(first)
    assert latest_step(memory.paths.snapshots) == 8
    damage(second)
    assert latest_step(memory.paths.snapshots) is None


def test_new_generation_writes_over_the_older_one(memory):
    for step in (4, 8, 12, 16):
        Snapshots(memory.paths.snapshots).take(step, number(step))
    first, second = memory.paths.snapshots
    damage(second)
    assert latest_step((first, second)) == 12


def test_new_generation_writes_over_the_damaged_one(memory):
    snapshots = Snapshots(memory.paths.snapshots)
    for step in (4, 8):
        snapshots.take(step, number(step))
    damage(memory.paths.snapshots[0])
    Snapshots(memory.paths.snapshots).take(12, number(12))
    damage(memory.paths.snapshots[0])
    assert latest_step(memory.paths.snapshots) == 8


@pytest.mark.parametrize("size", [0, HEAD.size - 1, HEAD.size, HEAD.size + 30])
def test_death_while_the_second_is_written_leaves_the_first(memory, size):
    snapshots = Snapshots(memory.paths.snapshots)
    for step in (4, 8):
        snapshots.take(step, number(step))
    torn = Path(memory.paths.snapshots[1])
    torn.write_bytes(torn.read_bytes()[:size])
    assert latest_step(memory.paths.snapshots) == 4


def test_latest_is_given_once_and_then_its_memory_is_free(memory):
    Snapshots(memory.paths.snapshots).take(4, number(4))
    snapshots = Snapshots(memory.paths.snapshots)
    assert snapshots.latest() is not None
    assert snapshots.latest() is None
