"""An optimizer's state as named tensors: its names, its numbers, and what does not fit it.

That a block which is loaded goes on bit for bit is test_block_load's.
"""

import pytest
import torch
from torch.nn import Parameter

from models.optimizer_state import OptimizerState
from models.unsaveable import Unsaveable


def parameters() -> dict[str, Parameter]:
    return {"w": Parameter(torch.ones(2, 3)), "b": Parameter(torch.ones(3))}


def adamw(named: dict[str, Parameter], *, num_steps: int = 0) -> OptimizerState:
    optimizer = torch.optim.AdamW(named.values(), lr=0.1)
    found = OptimizerState("adamw", optimizer, named)
    for step in range(num_steps):
        for parameter in named.values():
            parameter.grad = torch.full_like(parameter, 1.0 + step)
        optimizer.step()
    return found


class Counting(torch.optim.SGD):
    """Holds numbers by parameter, and changes those of its groups."""

    def step(self) -> None:
        for group in self.param_groups:
            group["momentum"] += 0.5
            group["seen"] = 3
            for parameter in group["params"]:
                self.state[parameter] |= {"num": 2, "odd": True, "part": 1 / 3}


def counting(named: dict[str, Parameter], *, steps: bool = True) -> OptimizerState:
    optimizer = Counting(named.values(), lr=0.1)
    found = OptimizerState("own:counting", optimizer, named)
    if steps:
        optimizer.step()
    return found


# Names and numbers ------------------------------------------------------------------------------


def test_state_is_empty_before_the_first_step():
    assert adamw(parameters()).state() == {}


def test_tensors_are_named_by_parameter_and_key():
    state = adamw(parameters(), num_steps=1).state()
    keys = ("step", "exp_avg", "exp_avg_sq")
    assert state.keys() == {f"{name}/{key}" for name in "wb" for key in keys}
    assert state["w/exp_avg"].shape == (2, 3)


def test_numbers_are_named_with_their_type_and_come_back_as_it():
    state = counting({"w": Parameter(torch.ones(2))}).state()
    assert {name: (tensor.dtype, tensor.item()) for name, tensor in state.items()} == {
        "w/num:int": (torch.int64, 2),
        "w/odd:bool": (torch.bool, True),
        "w/part:float": (torch.float64, 1 / 3),
        "groups/0/momentum:float": (torch.float64, 0.5),
        "groups/0/seen:int": (torch.int64, 3),
    }
    named = {"w": Parameter(torch.ones(2))}
    other = counting(named, steps=False)
    other.load(state)
    held = other._optimizer.state[named["w"]]
    assert held == {"num": 2, "odd": True, "part": 1 / 3}
    assert [type(value) for value in held.values()] == [int, bool, float]
    assert other._optimizer.param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize("key", [0, "a/b", "num:int"])
def test_key_that_is_no_name_is_refused(key):
    """It came back as another, and the optimizer did not find it."""
    named = {"w": Parameter(torch.ones(2))}
    optimizer = torch.optim.SGD(named.values(), lr=0.1)
    optimizer.state[named["w"]][key] = torch.ones(2)
    with pytest.raises(Unsaveable, match=f"keeps a state under {key!r}, which is no name"):
        OptimizerState("own:make", optimizer, named).state()


@pytest.mark.parametrize("later", [(0.8, 0.99), torch.tensor(2.0), torch.tensor([1.0, 1.0])])
def test_group_may_change_numbers_only(later):
    """The next generation went on with the first value, and nobody said so."""
    named = {"w": Parameter(torch.ones(2))}
    first = (0.9, 0.99) if isinstance(later, tuple) else torch.tensor(1.0)
    optimizer = torch.optim.SGD([{"params": [named["w"]], "d": first}], lr=0.1)
    found = OptimizerState("own:make", optimizer, named)
    assert found.state() == {}
    optimizer.param_groups[0]["d"] = later
    with pytest.raises(Unsaveable, match=f"changed 'd', a {type(later).__name__} in a parameter"):
        found.state()


def test_tensor_of_a_group_that_is_changed_in_place_is_refused():
    named = {"w": Parameter(torch.ones(2))}
    optimizer = torch.optim.SGD([{"params": [named["w"]], "d": torch.zeros(2)}], lr=0.1)
    found = OptimizerState("own:make", optimizer, named)
    optimizer.param_groups[0]["d"].add_(1)
    with pytest.raises(Unsaveable, match="changed 'd', a Tensor in a parameter group"):
        found.state()


def test_learning_rate_is_no_part_of_it():
    named = parameters()
    optimizer = torch.optim.SGD(named.values(), lr=0.1)
    state = OptimizerState("sgd", optimizer, named)
    optimizer.param_groups[0]["lr"] = 0.7
    assert state.state() == {}


def test_load_replaces_all_that_was_there():
    used = counting(named := {"w": Parameter(torch.ones(2))})
    used.load({})
    assert used.state() == {}
    assert dict(used._optimizer.state) == {}
    assert "seen" not in used._optimizer.param_groups[0]
    assert used._optimizer.param_groups[0]["params"] == [named["w"]]


def test_load_copies_what_it_is_given():
    state = adamw(parameters(), num_steps=2).state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    named = parameters()
    other = adamw(named)
    other.load(state)
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter)
    other._optimizer.step()
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert other.state()["w/step"].item() == 3


def test_copy_has_the_layout_of_its_parameter():
    named = {"w": Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))}
    state = {"w/exp_avg": torch.ones(2, 3, 4, 4), "w/step": torch.tensor(1.0)}
    found = adamw(named)
    found.load(state | {"w/exp_avg_sq": torch.ones(2, 3, 4, 4)})
    assert found.state()["w/exp_avg"].stride() == named["w"].stride()


class OneCount(torch.optim.SGD):
    """Keeps one count for all parameters, and for each a mean under two names."""

    def step(self) -> None:
        (group,) = self.param_groups
        count = next((state["step"] for state in self.state.values()), torch.zeros(()))
        count += 1
        for parameter in group["params"]:
            mean = self.state[parameter].get("mean", torch.zeros(2)) + 1
            self.state[parameter] |= {"step": count, "mean": mean, "last": mean}


def one_count() -> tuple[torch.optim.Optimizer, OptimizerState]:
    named = {"w": Parameter(torch.ones(2)), "b": Parameter(torch.ones(2))}
    optimizer = OneCount(named.values(), lr=0.1)
    return optimizer, OptimizerState("own:one_count", optimizer, named)


def test_tensor_that_parameters_share_is_shared_again():
    """A worker that was restarted had a count for each parameter, of which one was raised: the run
    ended in other bits."""
    (optimizer, held), (_, other) = one_count(), one_count()
    for _ in range(3):
        optimizer.step()
    state = {name: tensor.clone() for name, tensor in held.state().items()}
    assert state.keys() == {
        *("w/step:shared0", "w/mean:shared1", "w/last:shared1"),
        *("b/step:shared0", "b/mean:shared2", "b/last:shared2"),
    }
    other.check(state)
    other.load(state)
    of_w, of_b = other._optimizer.state.values()
    assert of_w["step"] is of_b["step"]
    assert of_w["mean"] is of_w["last"]
    assert of_w["mean"] is not of_b["mean"]
    optimizer.step()
    other._optimizer.step()
    ours, theirs = other.state(), held.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_tensors_of_two_blocks_that_are_named_as_shared_are_joined_only_if_they_are_one():
    """In another cut a block gets states of two, which have counted what is shared apart."""
    _, other = one_count()
    state = {"w/mean:shared0": torch.ones(2), "w/step:shared1": torch.tensor(4.0)}
    other.load(state | {"b/mean:shared0": torch.zeros(2), "b/step:shared1": torch.tensor(4.0)})
    of_w, of_b = other._optimizer.state.values()
    assert of_w["mean"].tolist() == [1.0, 1.0]
    assert of_b["mean"].tolist() == [0.0, 0.0]
    assert of_w["step"] is of_b["step"]


# What does not fit ------------------------------------------------------------------------------


def check(changes: dict[str, torch.Tensor | None]) -> None:
    state = adamw(parameters(), num_steps=1).state() | changes
    adamw(parameters()).check({name: t for name, t in state.items() if t is not None})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"v/step": torch.tensor(1.0)}, "state 'v/step' .* which has no such parameter"),
        ({"groups/1/momentum:float": torch.tensor(1.0)}, "which has no such group"),
        ({"w/exp_avg": torch.ones(3, 2)}, r"\(3, 2\) beside a parameter of \(2, 3\)"),
        ({"w/exp_avg": None}, "'w/exp_avg_sq,step' .* which keeps exp_avg, exp_avg_sq, step"),
        ({"w/momentum_buffer": torch.ones(2, 3)}, "which keeps exp_avg, exp_avg_sq, step"),
    ],
)
def test_state_of_another_optimizer_or_model_is_refused(changes, why):
    check({})
    with pytest.raises(ValueError, match=f"{why}; load it with the optimizer, the model and the"):
        check(changes)


def test_optimizer_of_the_users_may_hold_any_keys_and_shapes():
    state = {"w/anything": torch.ones(7)}
    counting({"w": Parameter(torch.ones(2))}).check(state)


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({"past": [1, 2]}, "keeps a list as 'w/past', which can't be saved"),
        ({"name": "x"}, "keeps a str as 'w/name', which can't be saved"),
    ],
)
def test_value_that_is_no_tensor_or_number_is_refused(held, why):
    used = counting(named := {"w": Parameter(torch.ones(2))})
    used._optimizer.state[named["w"]] |= held
    with pytest.raises(ValueError, match=why):
        used.state()


def test_state_that_belongs_to_no_parameter_is_refused():
    used = counting({"w": Parameter(torch.ones(2))})
    used._optimizer.state["all"] = {"num": 1}
    with pytest.raises(ValueError, match="keeps a state of 'all', which is no parameter"):
        used.state()
