"""A block's tensors lie where they outlive it, whoever holds them and however they change."""

import pytest
import safetensors.torch
import torch
from torch import Tensor

from runtime.state.live_state import LiveState, whole_state
from runtime.state.mapped import ALIGNMENT_BYTES

from .states import STATE, assert_same, fresh


def held(live: LiveState, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state as it lies there."""
    return safetensors.torch.load(b"".join(live.hold(state)))


def test_state_of_every_dtype_and_shape_lies_there_bit_for_bit(memory):
    live = LiveState(memory.paths.live)
    assert_same(held(live, fresh()), STATE)
    assert_same(held(live, {}), {})


def test_data_moves_once_to_an_aligned_place(memory):
    live, state = LiveState(memory.paths.live), fresh()
    live.hold(state)
    places = {name: tensor.data_ptr() for name, tensor in state.items()}
    assert not any(place % ALIGNMENT_BYTES for place in places.values())
    assert_same(held(live, state), STATE)
    assert {name: tensor.data_ptr() for name, tensor in state.items()} == places


def test_what_a_step_changes_is_there_without_a_copy(memory):
    live, weight = LiveState(memory.paths.live), torch.nn.Parameter(torch.ones(3))
    pieces = live.hold({"w": weight})
    with torch.no_grad():
        weight.add_(1)
    assert_same(safetensors.torch.load(b"".join(pieces)), {"w": torch.full((3,), 2.0)})


def test_parameter_that_has_moved_learns_as_before(memory):
    def learn(*, moves: bool) -> Tensor:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight], lr=0.1)
        live = LiveState(memory.paths.live)
        for _ in range(3):
            if moves:
                live.hold({"w": weight, **optimizer.state.get(weight, {})})
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
        return weight.detach().clone()

    assert torch.equal(learn(moves=True), learn(moves=False))


def test_tensor_that_shares_its_memory_stays_and_is_copied(memory):
    whole = torch.arange(6.0)
    state = {"part": whole[2:4], "turned": torch.arange(6.0).view(2, 3).t()}
    live, places = LiveState(memory.paths.live), [tensor.data_ptr() for tensor in state.values()]
    assert_same(held(live, state), state)
    whole.add_(1)
    assert_same(held(live, state), state)
    assert [tensor.data_ptr() for tensor in state.values()] == places


def test_tensors_of_one_memory_are_not_parted(memory):
    """As a user's weights may be, within a unit."""
    live, a = LiveState(memory.paths.live), torch.nn.Parameter(torch.zeros(3))
    state = {"a": a, "b": torch.nn.Parameter(a.data)}
    live.hold(state)
    with torch.no_grad():
        a.add_(1)
    assert_same(held(live, state), {"a": torch.ones(3), "b": torch.ones(3)})
    assert state["b"].tolist() == [1.0] * 3


def test_data_that_change_places_between_tensors_are_not_overwritten(memory):
    """As an optimizer's that swaps what it computes on, or keeps what it had before."""
    live = LiveState(memory.paths.live)
    a, b = torch.nn.Parameter(torch.zeros(3)), torch.ones(3)
    for number in range(2, 8):
        live.hold({"a": a, "b": b})
        if number % 2:
            a.data, b.data = b.data, a.data
        else:
            b.data = a.data
            a.data = torch.full((3,), float(number))
        expected = {"a": a.detach().clone(), "b": b.clone()}
        assert_same(held(live, {"a": a, "b": b}), expected)
        assert_same({"a": a.detach(), "b": b}, expected)
    assert len(live._slots) <= 4


def test_tensor_that_is_turned_where_it_lies_is_held_as_it_is(memory):
    live, square = LiveState(memory.paths.live), torch.arange(9.0).view(3, 3)
    live.hold({"s": square})
    for _ in range(3):
        square.t_()
        expected = {"s": square.clone()}
        assert_same(held(live, {"s": square}), expected)
        assert_same({"s": square}, expected)


def test_place_is_not_given_away_while_a_view_of_it_is_in_use(memory):
    live, scale = LiveState(memory.paths.live), torch.ones(4)
    live.hold({"s": scale})
    scale = scale.expand(3, 4)  # the object that owned the place is gone
    state = {"s": scale, "new": torch.zeros(4)}
    assert_same(held(live, state), {"s": torch.ones(3, 4), "new": torch.zeros(4)})
    assert_same(held(live, state), {"s": torch.ones(3, 4), "new": torch.zeros(4)})


@pytest.mark.parametrize("data", [torch.ones(5), torch.ones(1), torch.ones(3).double()])
def test_data_that_is_replaced_by_another_form_gets_another_place(memory, data):
    live, queue = LiveState(memory.paths.live), torch.zeros(3)
    live.hold({"q": queue})
    queue.data = data.clone() if data.dtype == queue.dtype else queue.data
    state = {"q": queue if data.dtype == queue.dtype else data}
    assert_same(held(live, state), {"q": data})
    assert_same(held(live, state), {"q": data})


def test_tensors_that_change_names_keep_their_places(memory):
    """As an optimizer's double buffers do."""
    live, a, b = LiveState(memory.paths.live), torch.zeros(3), torch.ones(3)
    live.hold({"a": a, "b": b})
    places = a.data_ptr(), b.data_ptr()
    assert_same(held(live, {"a": b, "b": a}), {"a": torch.ones(3), "b": torch.zeros(3)})
    assert (a.data_ptr(), b.data_ptr()) == places


def test_tensor_that_is_left_out_once_is_not_overwritten(memory):
    live, hidden = LiveState(memory.paths.live), torch.zeros(3)
    live.hold({"a": hidden})
    live.hold({"a": torch.ones(3)})
    assert hidden.tolist() == [0.0] * 3


def test_other_objects_for_the_same_data_do_not_mix_it_up(memory):
    live, a, b = LiveState(memory.paths.live), torch.zeros(3), torch.ones(3)
    live.hold({"a": a, "b": b})
    a, b = a.detach(), b.detach()  # the old objects are gone
    expected = {"b": torch.ones(3), "a": torch.zeros(3)}
    assert_same(held(live, {"b": b, "a": a}), expected)


def test_places_of_tensors_that_are_gone_are_used_again(memory):
    live = LiveState(memory.paths.live)
    for step in range(50):
        assert_same(held(live, {"step": torch.tensor(step)}), {"step": torch.tensor(step)})
    assert len(live._slots) <= 2


def test_tensors_may_come_and_go(memory):
    live, weight = LiveState(memory.paths.live), torch.ones(3)
    assert_same(held(live, {"w": weight}), {"w": torch.ones(3)})
    more = {"w": weight, "moment": torch.zeros(1000), "number": torch.tensor(1)}
    assert_same(held(live, more), more)
    assert_same(held(live, {"w": weight}), {"w": torch.ones(3)})


# What the next generation finds ----------------------------------------------------------------


def found(path: str) -> tuple[int, dict[str, Tensor]] | None:
    whole = whole_state(path)
    return None if whole is None else (whole[0], safetensors.torch.load(b"".join(whole[1])))


def test_whole_state_is_found_and_one_that_changes_is_not(memory):
    path = memory.paths.live
    assert found(path) is None
    live = LiveState(path)
    assert found(path) is None
    live.hold(fresh())
    assert found(path) is None
    live.mark_whole(4)
    step, state = found(path)
    assert step == 4
    assert_same(state, STATE)
    live.mark_changing()
    assert found(path) is None
    live.hold({"other": torch.ones(1)})
    live.mark_whole(5)
    assert found(path)[1].keys() == {"other"}
    LiveState(path)
    assert found(path) is None
