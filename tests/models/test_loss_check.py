"""A head and an objective are tried before any worker starts."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.heads import HeadSpec
from models.loss_check import check_heads_apart, try_local_loss
from models.numerics import FP32, Numerics
from models.objectives import CrossEntropy, NTXent
from models.plugins import UsersError

SPEC = HeadSpec(name="mine:head", in_shape=(5,), block_index=2)
HEADS = """
from torch import nn

LAYER = nn.Linear(5, 3)

def new(in_shape, **given):
    return nn.Linear(5, 3)

def one(in_shape, **given):
    return LAYER
"""


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Own:
    """A user's objective, which returns what a function makes of what it is given."""

    uses_labels = False
    head_features = None
    needs = ()

    def __init__(self, function, needs=()):
        self.function, self.needs = function, needs

    def __call__(self, projections, labels_B, **needed):
        assert set(labels_B.tolist()) == {-1}
        return self.function(projections, **needed)


def tried(objective=None, head=None, numerics=FP32) -> None:
    try_local_loss(
        "mine:own",
        objective or Own(lambda z: z.sum()),
        SPEC,
        head or nn.Linear(5, 4),
        numerics,
        batch_size=3,
        num_classes=7,
        input_shape=(1, 8, 8),
        home_shape=(3, 4, 4),
    )


# Heads -----------------------------------------------------------------------------------------


class Grows(nn.Module):
    """A head that remembers all that it has seen in a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)
        self.seen = nn.Buffer(torch.zeros(0, 5))

    def forward(self, x):
        self.seen = torch.cat([self.seen, x.detach()])
        return self.layer(x)


def test_head_whose_buffer_grows_is_refused():
    with pytest.raises(ValueError, match=r"of block 2 changes the buffer 'seen' .* \(0, 5\)"):
        tried(head=Grows())


@pytest.mark.parametrize("numerics", [FP32, Numerics(precision="bf16")])
def test_head_may_work_in_place(numerics):
    tried(head=nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)), numerics=numerics)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_head_may_compute_in_a_type_of_its_own(dtype):
    """It was refused, since it was not tried as it is run."""
    tried(NTXent(0.2), nn.Linear(5, 3, dtype=dtype))


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: None, "it returned a NoneType for an input of shape (6, 5)"),
        (lambda x: x.sum(), "it returned a Tensor of shape ()"),
        (lambda x: (x, x[:2]), "it returned a Tensor of shape (2, 5)"),
        (lambda x: [x], "it returned a list"),
        (lambda x: {"z": x}, "it returned a dict"),
        (lambda x: (), "it returned an empty tuple"),
        (lambda x: x.long(), "it returned int64"),
        (lambda x: torch.complex(x, x), "it returned complex64"),
        (lambda x: x.detach(), "returned nothing with a gradient"),
    ],
)
def test_head_that_returns_something_else_is_refused(function, found):
    with pytest.raises(ValueError, match="head 'mine:head' of block 2") as caught:
        tried(head=Returns(function))
    assert found in str(caught.value)


def test_head_that_raises_is_named():
    with pytest.raises(UsersError, match="head 'mine:head' of block 2 raised RuntimeError on an"):
        tried(head=nn.Linear(6, 3))


@pytest.mark.parametrize("objective", [NTXent(0.2), CrossEntropy(7)])
def test_head_of_a_tuple_needs_an_objective_of_its_own(objective):
    """An AttributeError: a tuple has no shape."""
    pair = Returns(lambda x: (x, x))
    tried(Own(lambda z: z[0].sum()), pair)
    with pytest.raises(ValueError, match=r"a tuple of 2, .* give an --objective of your own"):
        tried(objective, pair)


def test_heads_are_a_new_one_each(tmp_path, monkeypatch):
    """Blocks in one process trained one head together, and those in workers each its own."""
    (tmp_path / "own_tried_heads.py").write_text(HEADS)
    monkeypatch.syspath_prepend(tmp_path)

    def specs(name, num_blocks):
        return [
            HeadSpec(name=f"own_tried_heads:{name}", in_shape=(5,), block_index=index)
            for index in range(num_blocks)
        ]

    check_heads_apart(specs("new", 3))
    for num_blocks in (3, 1):  # one that is restarted begins with a new one
        with pytest.raises(ValueError, match="same 'weight' as that of block 0; make a new module"):
            check_heads_apart(specs("one", num_blocks))


# Objectives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda z: None, "returned a NoneType"),
        (
            lambda z: z.sum(1),
            r"returned a tensor of shape \(6,\), float32 for projections of shape \(6, 4\)",
        ),
        (lambda z: z.detach().sum(), "without a gradient"),
        (lambda z: float(z.detach().sum()), "returned a float"),
        (lambda z: z.sum() * 1j, r"returned a tensor of shape \(\), complex64"),
    ],
)
def test_loss_that_cannot_be_followed_is_refused(function, found):
    """It ended in a worker's backward(), after three restarts."""
    tried(Own(lambda z: z.sum()))
    with pytest.raises(
        ValueError, match=f"objective 'mine:own' .*{found}.* must return one real number"
    ):
        tried(Own(function))


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no way back")


def test_backward_that_raises_is_named():
    with pytest.raises(UsersError, match=r"backward of objective 'mine:own' .*no way back"):
        tried(Own(lambda z: FailsBackward.apply(z).sum()))


def test_objective_that_raises_is_named():
    with pytest.raises(UsersError, match=r"'mine:own' raised RuntimeError on projections of shape"):
        tried(Own(lambda z: z @ z))


def test_objective_that_holds_state_is_refused():
    """Blocks in one process shared it, and a worker that was restarted began with a new one."""
    calls = []

    def counting(projections):
        calls.append(None)
        return projections.sum() * len(calls)

    with pytest.raises(ValueError, match="must hold no state"):
        tried(Own(counting))
    tried(Own(lambda z: (z * torch.rand(4)).sum()))  # what is drawn is keyed on the step
    tried(Own(lambda z: z.sum() * torch.nan))  # equal to nothing, and yet the same


def test_objective_may_work_in_place_on_what_it_is_given():
    needs = ("block_input", "home_output")
    tried(Own(lambda z, **n: z.mul_(2).sum() + n["block_input"].zero_().sum(), needs))


def test_objective_gets_all_that_it_needs():
    got = {}

    def loss(projections, **needed):
        got.update(needed)
        return projections[1].sum() + needed["home_output"].sum()

    needs = ("block_input", "home_output", "block_index")
    tried(Own(loss, needs), Returns(lambda x: (x, x[:, 0])))
    assert got.pop("block_index") == 2
    assert {name: tuple(t.shape) for name, t in got.items()} == {
        "block_input": (6, 1, 8, 8),
        "home_output": (6, 3, 4, 4),
    }
    assert not got["block_input"].requires_grad
    assert got["home_output"].requires_grad


def test_objective_is_given_nothing_unasked():
    tried(Own(lambda z, **needed: z.sum() if not needed else None))


class OfThree(Own):
    """For a head of too few classes."""

    uses_labels = True

    def __call__(self, projections, labels_B, **needed):
        return functional.cross_entropy(projections[:, :3], labels_B.repeat(2))


def test_objective_of_labels_is_tried_with_the_highest_class():
    """With class 0 alone it passed, and ended in a worker."""
    with pytest.raises(UsersError, match="'mine:own' raised IndexError"):
        tried(OfThree(None))
