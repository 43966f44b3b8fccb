"""How units compute: precision, memory layout, and once more in the backward."""

from collections.abc import Iterable
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn

from models.block import LocalBlock
from models.network import Network, Unit, trace_units
from models.numerics import Numerics
from models.sequential import train

BF16, LAST, AGAIN = (
    Numerics(precision="bf16"),
    Numerics(channels_last=True),
    Numerics(recompute=True),
)


def states(blocks: Iterable[LocalBlock]) -> list[Tensor]:
    return [tensor for block in blocks for _, tensor in sorted(block.state().items())]


def assert_same(left: Iterable[LocalBlock], right: Iterable[LocalBlock]) -> None:
    for a, b in zip(states(left), states(right), strict=True):
        assert torch.equal(a, b)


def seed() -> None:
    torch.manual_seed(1)


# Once more in the backward ---------------------------------------------------------------------


@pytest.mark.parametrize("tie", ["gradient", "elastic", "follow", "none"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_changes_no_bit(cut_blocks, tie, precision):
    """The units have BatchNorm and dropout; a step is poisoned, after which buffers go back."""
    poisoned = [(0, 1), (1, 2)]
    runs = []
    for recompute in (False, True):
        numerics = Numerics(precision=precision, recompute=recompute)
        runs.append(cut_blocks((0, 1, 3), tie=tie, numerics=numerics, poisoned=poisoned))
        train(runs[-1], num_steps=5, lag=1)
    assert_same(*runs)


class Saved:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_recomputing_saves_the_input_alone():
    unit = nn.Sequential(nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 2), nn.BatchNorm1d(2))
    x = torch.rand(8, 50, requires_grad=True).clone()
    saved: WeakSet[Saved] = WeakSet()

    def pack(tensor: Tensor) -> Saved:
        packed = Saved(tensor.detach())  # not the graph, which holds what is packed
        saved.add(packed)
        return packed

    def num_saved(numerics: Numerics) -> int:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
            y = numerics.run(unit, x, seed=seed, writes_input=False)
        found = sum(packed.tensor.numel() for packed in saved)
        y.sum().backward()
        return found

    assert num_saved(AGAIN) == x.numel()
    assert num_saved(Numerics()) > 3 * x.numel()


def test_unit_that_writes_its_input_recomputes_from_a_copy():
    unit = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2), nn.Dropout(0.5))
    results = []
    for numerics in (Numerics(), AGAIN):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = numerics.run(unit, x.clone(), seed=seed, writes_input=True)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        results.append((y.detach(), gradient))
    for once, again in zip(*results, strict=True):
        assert torch.equal(once, again)


def test_unit_whose_output_depends_on_its_buffers_recomputes_from_those():
    """Spectral normalisation takes a step of its power iteration in each forward."""
    found = []
    for numerics in (Numerics(), AGAIN):
        torch.manual_seed(0)
        unit = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4))
        for _ in range(2):
            y = numerics.run(unit, torch.ones(2, 5), seed=seed, writes_input=False)
            y.square().sum().backward()
        found.append([*(p.grad for p in unit.parameters()), *unit.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_unit_that_no_gradient_reaches_gets_none():
    """Zeros in place of none would be decayed by an optimizer."""

    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> None:
            return None

    unit = nn.Linear(3, 3)
    y = AGAIN.run(unit, torch.ones(2, 3), seed=seed, writes_input=False)
    (Stop.apply(y).sum() + torch.ones((), requires_grad=True)).backward()
    assert unit.weight.grad is None


def test_unit_without_gradients_recomputes_nothing():
    """Such as one of frozen features: it trains nothing, and nothing below it."""

    class Frozen(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    x = torch.rand(2, 3, requires_grad=True)
    y = AGAIN.run(Frozen(3, 4), x, seed=seed, writes_input=False)
    assert not y.requires_grad
    (y.sum() + x.sum()).backward()
    assert x.grad.tolist() == [[1.0] * 3] * 2


def test_unit_that_does_not_repeat_its_form_is_refused():
    class Shrinking(nn.Linear):
        rows = 4

        def forward(self, x: Tensor) -> Tensor:
            self.rows -= 1
            return super().forward(x)[: self.rows]

    y = AGAIN.run(Shrinking(3, 2), torch.rand(4, 3), seed=seed, writes_input=False)
    with pytest.raises(RuntimeError, match=r"gave \(2, 2\) .* and \(3, 2\) .* must repeat itself"):
        y.sum().backward()


def test_statistics_are_counted_once():
    unit = nn.BatchNorm1d(3)
    AGAIN.run(unit, torch.rand(4, 3), seed=seed, writes_input=False).sum().backward()
    assert unit.num_batches_tracked == 1


# Precision -------------------------------------------------------------------------------------


def test_bf16_is_of_activations_alone(cut_blocks):
    lower, upper = cut_blocks((0, 1), tie="gradient", numerics=BF16)
    activation, labels = lower.forward(0, None)
    assert activation.dtype == torch.bfloat16
    ties = lower.update(0)
    assert ties.up[0].dtype == torch.float32
    upper.forward(0, (activation, labels))
    upper.update(0)
    lower.apply(0, None, None)
    for block in (lower, upper):
        learned = [t for name, t in block.state().items() if not name.startswith("bad/")]
        assert {t.dtype for t in learned} == {torch.float32, torch.int64}
        assert block.loss != pytest.approx(0)


def test_loss_is_given_float32(cut_blocks):
    class Sum:
        uses_labels = False
        head_features = None
        needs = ("block_input", "home_output", "block_index")

        def __init__(self):
            self.given = []

        def __call__(self, projections, labels_B, *, block_input, home_output, block_index):
            self.given.append((projections, block_input, home_output, block_index))
            return projections.square().sum() + home_output.square().sum()

    objective = Sum()
    train(cut_blocks((0, 1), numerics=BF16, objective=objective), num_steps=1, lag=0)
    assert [index for *_, index in objective.given] == [0, 1]
    for *tensors, _ in objective.given:
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
    first, second = objective.given
    assert torch.equal(second[1], first[2])  # what the lower home gives is the upper block's input
    assert not second[1].requires_grad


def test_loss_that_writes_into_what_it_is_given_writes_into_copies(cut_blocks):
    """An input that came by shared memory can't be written to: the worker died by SIGSEGV."""

    class Writes:
        uses_labels = False
        head_features = None
        needs = ("block_input",)

        def __call__(self, projections, labels_B, *, block_input):
            block_input.zero_()
            return projections.square().sum()

    lower, upper = cut_blocks((0, 1), objective=Writes())
    activation = lower.forward(0, None)
    before = activation[0].clone()
    upper.forward(0, activation)
    upper.update(0)
    assert torch.equal(activation[0], before)


# Memory layout ---------------------------------------------------------------------------------

CONVOLUTIONS = Network(
    name="convolutions",
    units=tuple(
        Unit(name=f"u{i}", prefix=f"u{i}.", build=lambda i=i: nn.Conv2d(3 if i else 1, 3, 3))
        for i in range(3)
    ),
)


def test_image_lies_channels_last_and_travels_as_it_lies():
    x = torch.rand(2, 3, 4, 5)
    laid = LAST.laid_out(x)
    assert torch.equal(laid, x)
    wire = LAST.to_wire(laid)
    assert wire.is_contiguous()
    assert tuple(wire.shape) == (2, *LAST.wire_shape((3, 4, 5))) == (2, 4, 5, 3)
    back = LAST.from_wire(wire)
    assert torch.equal(back, x)
    assert back.stride() == laid.stride()


@pytest.mark.parametrize("shape", [(6,), (4, 6)])
def test_what_is_no_image_stays_as_it_is(shape):
    x = torch.rand(2, *shape)
    assert LAST.to_wire(LAST.laid_out(x)) is LAST.from_wire(x) is x
    assert LAST.wire_shape(shape) == shape


def test_trace_is_of_what_crosses_an_edge():
    traces = trace_units(CONVOLUTIONS, (1, 9, 9), Numerics(precision="bf16", channels_last=True))
    assert [trace.output_dtype for trace in traces] == ["bfloat16"] * 3
    assert traces[0].output_shape == (3, 7, 7)


def test_buffer_that_a_unit_makes_anew_is_put_back():
    """An average that was assigned, not written to, counted each batch twice."""

    class Average(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = 0.5 * self.mean + x.detach().mean(0)
            return self.layer(x) + self.mean

    found = []
    for numerics in (Numerics(), AGAIN):
        unit = Average()
        for _ in range(3):
            y = numerics.run(unit, torch.ones(4, 2), seed=seed, writes_input=False)
            y.sum().backward()
        found.append(unit.mean)
    assert torch.equal(*found)
