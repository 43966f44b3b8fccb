"""A block that is saved and loaded goes on, bit for bit, as one that was never interrupted."""

import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import Tensor

from models.block import LocalBlock, Ties
from models.unsaveable import Unsaveable
from tests.models.conftest import FIVE

NUM_STEPS = 4
OWN = """
import torch

class Odd(torch.optim.Optimizer):
    '''Keeps an int, a float, a bool, a wide tensor by parameter, and numbers in its groups.'''

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr, "beta": 0.9, "seen": 0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["seen"] += 1
            group["scale"] = group.get("scale", 1.0) * (1 - 1 / 3)
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                s["num"] = s.get("num", 0) + 1
                s["part"] = s.get("part", 0.0) + 1 / 3
                s["odd"] = s["num"] % 2 == 1
                s["mean"] = s.get("mean", torch.zeros(p.shape, dtype=torch.float64)) * 0.9 + p.grad
                assert (type(s["num"]), type(s["part"]), type(s["odd"])) == (int, float, bool)
                p -= (group["lr"] * group["scale"] * s["mean"] / s["part"]).float()

def odd(groups, lr):
    return Odd(groups, lr)

class Listing(Odd):
    def step(self):
        self.state[self.param_groups[0]["params"][0]]["past"] = [1, 2]

def listing(groups, lr):
    return Listing(groups, lr)

class Elsewhere(Odd):
    def step(self):
        self.state["all"] = {"num": 1}

def elsewhere(groups, lr):
    return Elsewhere(groups, lr)
"""
OPTIMIZERS = ["adamw", "sgd", "own_odd:odd", "torch.optim:Adagrad", "torch.optim:NAdam"]


@pytest.fixture(autouse=True)
def own_optimizers(tmp_path, monkeypatch):
    (tmp_path / "own_odd.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def to_bytes(block: LocalBlock) -> bytes:
    return safetensors.torch.save({n: t.contiguous() for n, t in block.state().items()})


def reload(block: LocalBlock, saved: bytes) -> None:
    block.load(safetensors.torch.load(saved))


def step_all(blocks: list[LocalBlock], step: int, ties: dict[int, list[Ties]], lag: int) -> None:
    """As models.sequential.train, from any step on; `ties` is by step."""
    activation = None
    ties[step] = []
    for block in blocks:
        activation = block.forward(step, activation)
        ties[step].append(block.update(step))
    for k, block in enumerate(blocks):
        below = ties[step][k - 1].up if k else None
        late = ties.get(step - lag)
        above = late[k + 1].down if late and k + 1 < len(blocks) else None
        block.apply(step, below, above)


def as_bytes(state: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, bytes]]:
    return {n: (t.dtype, t.detach().contiguous().numpy().tobytes()) for n, t in state.items()}


def assert_same(left: list[LocalBlock], right: list[LocalBlock]) -> None:
    for a, b in zip(left, right, strict=True):
        assert as_bytes(a.state()) == as_bytes(b.state())
        assert a.loss == b.loss or (math.isnan(a.loss) and math.isnan(b.loss))
        assert a.num_bad_steps == b.num_bad_steps
        assert a.probe_top1 == b.probe_top1


CELLS = [
    *((optimizer, "elastic", 1) for optimizer in OPTIMIZERS),
    *(("adamw", tie, lag) for tie in ("elastic", "gradient") for lag in (0, 2)),
    ("sgd", "gradient", 1),
    ("sgd", "none", 0),
]


@pytest.mark.parametrize(("optimizer", "tie", "lag"), CELLS)
def test_run_interrupted_at_any_step_equals_one_that_was_not(cut_blocks, optimizer, tie, lag):
    def build() -> list[LocalBlock]:
        poisoned = [(1, 1), (1, 2), (0, 3)]
        return cut_blocks((0, 1, 3), tie=tie, optimizer=optimizer, poisoned=poisoned)

    whole, ties, saved = build(), {}, {}
    for step in range(NUM_STEPS):
        saved[step] = [to_bytes(block) for block in whole]
        step_all(whole, step, ties, lag)

    used = build()
    step_all(used, 0, {}, lag)
    for stop, resumed in [*((stop, build()) for stop in range(NUM_STEPS)), (0, used), (2, used)]:
        for block, state in zip(resumed, saved[stop], strict=True):
            reload(block, state)
        history = {s: ties[s] for s in range(stop)}
        for step in range(stop, NUM_STEPS):
            step_all(resumed, step, history, lag)
        assert_same(resumed, whole)


def test_latest_loss_comes_back(cut_blocks):
    for poisoned in ([], [(0, 1)]):
        block, other = (cut_blocks(poisoned=poisoned)[0] for _ in range(2))
        for step in range(2):
            step_all([block], step, {}, 0)
        reload(other, to_bytes(block))
        assert_same([block], [other])
        assert math.isnan(other.loss) is bool(poisoned)


def test_loaded_block_shares_nothing_with_the_state(cut_blocks):
    block, other = (cut_blocks()[0] for _ in range(2))
    step_all([block], 0, {}, 0)
    other.load(block.state())
    step_all([other], 1, {}, 0)
    before = as_bytes(block.state())
    step_all([other], 2, {}, 0)
    assert as_bytes(block.state()) == before


def test_number_comes_back_as_the_number_it_was(cut_blocks):
    block, other = (cut_blocks(optimizer="own_odd:odd")[0] for _ in range(2))
    step_all([block], 0, {}, 0)
    state = block.state()
    assert state["optimizer/home/a.1.weight/part:float"].dtype == torch.float64
    assert state["optimizer/groups/0/seen:int"] == 1
    assert "optimizer/groups/0/beta:float" not in state  # it never changes
    other.load(state)
    step_all([other], 1, {}, 0)  # asserts the types
    assert other._optimizer.param_groups[0]["seen"] == 2


class Cached(torch.nn.Module):
    """A buffer that is not for a state dict, and yet is carried; and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = torch.nn.Flatten(1)
        self.layer = torch.nn.Linear(4, 3)
        self.alias = self.layer
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls += 1
        return self.alias(self.flat(x)) * self.calls


def test_state_holds_all_that_is_carried_and_holds_it_once(cut_blocks):
    block = cut_blocks((0,))[0]
    block._home["0"] = Cached()
    names = [name for name in block.state() if name.startswith("home/a.")]
    assert names == ["home/a.layer.weight", "home/a.layer.bias", "home/a.calls"]
    to_bytes(block)  # safetensors refuses tensors that share their memory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("home/a.1.weight"), r"'home/a.1.weight' is missing, but .* \(3, 4\)"),
        (lambda s: s.update({"home/z": torch.ones(2)}), r"'home/z' is \(2,\) .* is missing"),
        (lambda s: s.update({"home/a.1.bias": torch.ones(9)}), r"a.1.bias' is \(9,\) torch.float"),
        (lambda s: s.update({"home/a.1.bias": torch.ones(3).double()}), "float64, but .*float32"),
        (lambda s: s.pop("probe/weight"), "'probe/weight' is missing"),
        (lambda s: s.pop("bad/num_bad_steps"), "'bad/num_bad_steps' is missing"),
        (lambda s: s.pop("optimizer/home/a.1.bias/step"), "keeps exp_avg, exp_avg_sq, step"),
        (lambda s: s.update({"optimizer/home/z/step": torch.ones(())}), "no such parameter"),
        (lambda s: s.update({"optimizer/groups/7/k:int": torch.ones(())}), "no such group"),
        (
            lambda s: s.update({"optimizer/home/a.1.bias/exp_avg": torch.ones(9)}),
            r"\(9,\) beside a parameter of \(3,\)",
        ),
    ],
)
def test_state_of_another_block_is_refused_and_changes_nothing(cut_blocks, change, message):
    block, other = (cut_blocks()[0] for _ in range(2))
    step_all([block], 0, {}, 0)
    state = dict(block.state())
    change(state)
    before = as_bytes(other.state())
    with pytest.raises(ValueError, match=message) as raised:
        other.load(state)
    assert "load it " in str(raised.value)
    assert as_bytes(other.state()) == before


def test_state_of_another_optimizer_is_refused(cut_blocks):
    (block, _), (other, _) = cut_blocks(optimizer="sgd"), cut_blocks()
    step_all([block], 0, {}, 0)
    with pytest.raises(ValueError, match="'adamw', which keeps exp_avg, exp_avg_sq, step; load it"):
        other.load(block.state())


class Grows(torch.nn.Module):
    """Holds more from the second batch on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        self.calls = torch.nn.Buffer(torch.zeros(()))
        self.seen = torch.nn.Buffer(torch.zeros(1, 3))

    def forward(self, x):
        y = self.layer(x)
        self.calls += 1
        if self.calls == 2:
            self.seen = torch.cat([self.seen, y.detach()])
        return y


def test_buffer_that_grows_late_is_told_by_the_next_step(cut_blocks):
    """Its state was saved, and refused by each new worker as that of another model."""
    unit = replace(FIVE.units[0], build=Grows)
    network = replace(FIVE, units=(unit, *FIVE.units[1:]))
    block = cut_blocks((0,), network=network)[0]
    for step in range(2):
        step_all([block], step, {}, 0)
    with pytest.raises(
        Unsaveable, match=r"'home/a.seen' as it trains, from \(1, 3\) .* to \(11, 3"
    ):
        block.forward(2, None)


def test_buffer_that_grows_in_a_bad_step_is_told_as_it_is_left_out(cut_blocks):
    unit = replace(FIVE.units[0], build=Grows)
    network = replace(FIVE, units=(unit, *FIVE.units[1:]))
    block = cut_blocks((0,), network=network, poisoned=[(0, 1)])[0]
    step_all([block], 0, {}, 0)
    block.forward(1, None)
    with pytest.raises(Unsaveable, match=r"'home/a.seen' as it trains"):
        block.update(1)


class Registers(torch.nn.Module):
    """Has no buffer before the second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2:
            self.late = torch.nn.Buffer(torch.zeros(3))
        return self.layer(x)


def test_first_buffer_of_a_block_that_comes_late_is_told(cut_blocks):
    unit = replace(FIVE.units[0], build=Registers)
    network = replace(FIVE, units=(unit, *FIVE.units[1:]))
    block = cut_blocks((0, 1), overlap=0, network=network, depth=0)[0]
    assert not list(block._buffers())
    for step in range(2):
        step_all([block], step, {}, 0)
    with pytest.raises(Unsaveable, match=r"'home/a.late' as it trains, from none to"):
        block.forward(2, None)


class Moves(Grows):
    """Registers its buffers anew, in another order."""

    def forward(self, x):
        seen = self.seen
        del self.seen, self.calls
        self.seen, self.calls = torch.nn.Buffer(seen + 1), torch.nn.Buffer(torch.ones(()))
        return self.layer(x)


def test_buffers_that_change_places_are_put_back_by_name(cut_blocks):
    unit = replace(FIVE.units[0], build=Moves)
    network = replace(FIVE, units=(unit, *FIVE.units[1:]))
    block = cut_blocks((0,), network=network, poisoned=[(0, 1)])[0]
    for step in range(3):
        step_all([block], step, {}, 0)
    assert block.state()["home/a.seen"].tolist() == [[2.0] * 3]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [("own_odd:listing", "keeps a list as '.*past'"), ("own_odd:elsewhere", "state of 'all'")],
)
def test_optimizer_whose_state_cannot_be_saved_is_refused(cut_blocks, optimizer, message):
    block = cut_blocks(optimizer=optimizer)[0]
    step_all([block], 0, {}, 0)
    with pytest.raises(Unsaveable, match=message):
        block.state()
