"""`gradient` with lag 0 is LoCo: a third witness, written from the paper with autograd alone.

Here stages are truly shared and evaluated once, in one connected graph with nothing detached; the
gradient of each local loss is asked for the parameters of its own block only (arXiv 2008.01342,
section 3.1), and those of a shared stage are summed. Float64 and plain SGD, so that the two
programs differ by rounding alone.

What crosses an edge can be rounded there, too. Then a shared stage is evaluated twice, since the
block above runs it on the rounded output of the stage below, and both terms of a sum are rounded
first. The witness rounds by arithmetic on mantissas.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from launch.planning.partition import Partition
from models.block import Learning, LocalBlock
from models.heads import HeadSpec
from models.mlp import mlp
from models.network import Network, trace_units
from models.objectives import NTXent
from models.resnet import small_resnet
from models.sequential import train
from models.wire import EXACT, Wire, WirePrecision

STEPS, BATCH, LR = 20, 6, 0.02  # a small rate: a larger one amplifies rounding
IMAGE = (1, 8, 8)
NETWORKS = {"mlp": mlp(64, width=12, depth=5), "resnet": small_resnet(width=4)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def source(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    views = torch.rand(2 * BATCH, *IMAGE, generator=generator, dtype=torch.float64)
    return views, torch.zeros(BATCH, dtype=torch.int64)


def local_blocks(
    network: Network, partition: Partition, depth: int, wires: tuple[Wire, ...] = ()
) -> list[LocalBlock]:
    traces = trace_units(network, IMAGE)
    learning = Learning(
        tie="gradient",
        alpha=0.0,
        optimizer="torch.optim:SGD",
        lr=LR,
        weight_decay=0.0,
        schedule="constant",
        warmup_steps=0,
        num_steps=STEPS,
        seed=3,
    )
    blocks = []
    for k, block in enumerate(partition.blocks):
        built = LocalBlock(
            network,
            home=block.home,
            guest=block.guest,
            lent=partition.blocks[k - 1].guest if k else range(0),
            learning=dataclasses.replace(
                learning,
                wire_below=wires[k - 1] if wires and k else EXACT,
                wire_above=wires[k] if k < len(wires) else EXACT,
            ),
            objective=NTXent(0.5),
            num_classes=2,
            head=HeadSpec(
                in_shape=traces[(*block.home, *block.guest)[-1]].output_shape, depth=depth
            ),
            home_shape=traces[block.home[-1]].output_shape,
            source=None if k else source,
        )
        for part in (built._home, built._guest, built._head):
            part.double()
        blocks.append(built)
    return blocks


def train_one_graph(stages: nn.ModuleList, heads: nn.ModuleList, partition: Partition) -> None:
    """LoCo: every stage once a step, every loss's gradient for its own stages and head."""
    objective = NTXent(0.5)
    for step in range(STEPS):
        x, labels = source(step)
        outputs = []
        for stage in stages:
            x = stage(x)
            outputs.append(x)
        sums: dict[nn.Parameter, Tensor] = {}
        for block, head in zip(partition.blocks, heads, strict=True):
            units = (*block.home, *block.guest)
            own = [p for module in (*(stages[i] for i in units), head) for p in module.parameters()]
            loss = objective(head(outputs[units[-1]]), labels)
            for p, gradient in zip(
                own, torch.autograd.grad(loss, own, retain_graph=True), strict=True
            ):
                sums[p] = sums[p] + gradient if p in sums else gradient
        with torch.no_grad():
            for p, gradient in sums.items():
                p.sub_(LR * gradient)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    ("name", "cuts", "overlaps"),
    [
        ("mlp", (0, 2), (1,)),
        ("mlp", (0, 1, 2, 3), (1, 1, 1)),
        ("mlp", (0, 1, 3), (2, 2)),
        ("mlp", (0, 1, 3), (2, 1)),
        ("resnet", (0, 1, 2, 3), (1, 1, 1)),
        ("resnet", (0, 1, 3), (2, 2)),
        ("resnet", (0, 1, 3), (1, 2)),
    ],
)
def test_gradient_ties_without_lag_are_loco(name, cuts, overlaps, depth):
    network = NETWORKS[name]
    partition = Partition(num_units=5, cuts=cuts, overlaps=overlaps)
    blocks = local_blocks(network, partition, depth)
    stages = nn.ModuleList(
        copy.deepcopy(block._home[str(i)])
        for block, part in zip(blocks, partition.blocks, strict=True)
        for i in part.home
    )
    heads = nn.ModuleList(copy.deepcopy(block._head) for block in blocks)
    before = [p.detach().clone() for p in stages.parameters()]

    train(blocks, num_steps=STEPS, lag=0)
    train_one_graph(stages, heads, partition)

    for old, new in zip(before, stages.parameters(), strict=True):
        assert not torch.equal(old, new)
    homes = [module for block in blocks for module in block._home.values()]
    for module, stage in zip(homes, stages, strict=True):
        assert_close(module, stage)
    for block, head in zip(blocks, heads, strict=True):
        assert_close(block._head, head)
    assert_guests_equal_homes(blocks)


def assert_close(left: nn.Module, right: nn.Module) -> None:
    """Each tensor to 1e-9 of its own size."""
    for (name, a), (_, b) in zip(left.named_parameters(), right.named_parameters(), strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm(), name


def assert_guests_equal_homes(blocks: list[LocalBlock]) -> None:
    for lower, upper in itertools.pairwise(blocks):
        assert lower._guest
        for index, guest in lower._guest.items():
            home = dict(upper._home[index].named_parameters())
            for parameter_name, parameter in guest.named_parameters():
                assert torch.equal(parameter, home[parameter_name]), parameter_name


def test_witness_can_tell_loco_from_late_ties():
    """With lag 1 the two programs must part, or the comparison would be worth nothing."""
    partition = Partition(num_units=5, cuts=(0, 2), overlaps=(1,))
    blocks = local_blocks(NETWORKS["mlp"], partition, 0)
    stages = nn.ModuleList(
        copy.deepcopy(module) for block in blocks for module in block._home.values()
    )
    heads = nn.ModuleList(copy.deepcopy(block._head) for block in blocks)
    train(blocks, num_steps=STEPS, lag=1)
    train_one_graph(stages, heads, partition)
    with pytest.raises(AssertionError):
        assert_guests_equal_homes(blocks)
    with pytest.raises(AssertionError):
        assert_close(blocks[0]._home["0"], stages[0])


# With edges that round ------------------------------------------------------------------------

# Of a number: its significant bits, and the least power of two that has them all (IEEE 754).
FORMATS = {"fp32": (24, -126), "bf16": (8, -126), "fp16": (11, -14)}


def rounded(x: Tensor, precision: str) -> Tensor:
    """The nearest of the numbers of that format, of two as near the even one. Torch takes float64
    to the narrow formats by way of fp32."""
    if precision == "exact":
        return x
    if precision != "fp32":
        x = rounded(x, "fp32")
    num_bits, least = FORMATS[precision]
    _, exponent = torch.frexp(x.detach())  # x = m 2^exponent with 1/2 <= |m| < 1
    quantum = torch.ldexp(torch.ones_like(x), exponent.clamp(min=least + 1) - num_bits)
    return (x.detach() / quantum).round() * quantum


def train_one_graph_over_wires(
    stages: nn.ModuleList,
    heads: nn.ModuleList,
    partition: Partition,
    precisions: tuple[WirePrecision, ...],
    *,
    rounds_ties: bool,
    rounds: Callable[[Tensor, str], Tensor] = rounded,
) -> None:
    """LoCo of which edge k rounds to `precisions[k]`: each block from its own input, one sum a
    shared parameter."""
    objective = NTXent(0.5)
    for step in range(STEPS):
        x, labels = source(step)
        sums: dict[nn.Parameter, Tensor] = {}
        for k, (block, head) in enumerate(zip(partition.blocks, heads, strict=True)):
            for i in block.home:
                x = stages[i](x)
            top = x
            for i in block.guest:
                top = stages[i](top)
            units = (*block.home, *block.guest)
            own = [p for module in (*(stages[i] for i in units), head) for p in module.parameters()]
            found = torch.autograd.grad(objective(head(top), labels), own)
            gradients = dict(zip(own, found, strict=True))
            for edge, shared in ((k, block.guest), (k - 1, block.lent)):
                for p in (p for i in shared if rounds_ties for p in stages[i].parameters()):
                    gradients[p] = rounds(gradients[p], precisions[edge])
            for p, gradient in gradients.items():
                sums[p] = sums[p] + gradient if p in sums else gradient
            if k < len(precisions):
                x = rounds(x, precisions[k]).detach()
        with torch.no_grad():
            for p, gradient in sums.items():
                p.sub_(LR * gradient)


def wired_blocks(
    name: str, partition: Partition, precisions: tuple[WirePrecision, ...], *, ties: bool
) -> tuple[list[LocalBlock], nn.ModuleList, nn.ModuleList]:
    """Blocks over edges that round, and copies of their stages and heads for the witness."""
    wires = tuple(
        Wire(precision=precision, activation=torch.float64, rounds_ties=ties)
        for precision in precisions
    )
    blocks = local_blocks(NETWORKS[name], partition, 1, wires)
    homes = [module for block in blocks for module in block._home.values()]
    stages = nn.ModuleList(copy.deepcopy(home) for home in homes)
    return blocks, stages, nn.ModuleList(copy.deepcopy(block._head) for block in blocks)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("name", "cuts", "overlaps", "precisions"),
    [
        ("mlp", (0, 1, 2, 3), (1, 1, 1), ("bf16", "bf16", "bf16")),
        ("mlp", (0, 1, 3), (2, 1), ("fp16", "bf16")),
        ("resnet", (0, 1, 3), (1, 2), ("fp16", "fp16")),
        ("resnet", (0, 1, 3), (2, 2), ("exact", "bf16")),
    ],
)
def test_gradient_ties_over_edges_that_round_are_loco_of_rounded_terms(
    name, cuts, overlaps, precisions, ties
):
    partition = Partition(num_units=5, cuts=cuts, overlaps=overlaps)
    blocks, stages, heads = wired_blocks(name, partition, precisions, ties=ties)

    train(blocks, num_steps=STEPS, lag=0)
    train_one_graph_over_wires(stages, heads, partition, precisions, rounds_ties=ties)

    homes = [module for block in blocks for module in block._home.values()]
    for module, stage in zip(homes, stages, strict=True):
        assert_close(module, stage)
    for block, head in zip(blocks, heads, strict=True):
        assert_close(block._head, head)
    assert_guests_equal_homes(blocks)


def cut_off(x: Tensor, precision: str) -> Tensor:
    """Another rounding: towards zero."""
    num_bits, _ = FORMATS[precision]
    _, exponent = torch.frexp(x.detach())
    quantum = torch.ldexp(torch.ones_like(x), exponent - num_bits)
    return (x.detach() / quantum).trunc() * quantum


@pytest.mark.parametrize(
    ("precision", "rounds_ties", "rounds"),
    [
        ("exact", True, rounded),
        ("fp16", True, rounded),
        ("bf16", False, rounded),
        ("bf16", True, cut_off),
    ],
)
def test_witness_can_tell_another_rounding(precision, rounds_ties, rounds):
    """Beside edges that round all to bf16."""
    partition = Partition(num_units=5, cuts=(0, 2), overlaps=(1,))
    blocks, stages, heads = wired_blocks("mlp", partition, ("bf16",), ties=True)
    train(blocks, num_steps=STEPS, lag=0)
    train_one_graph_over_wires(
        stages, heads, partition, (precision,), rounds_ties=rounds_ties, rounds=rounds
    )
    with pytest.raises(AssertionError):
        assert_close(blocks[1]._home["2"], stages[2])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_witness_rounds_as_ieee_754_says(precision):
    """By hand halfway between two numbers, and else as torch does."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    eps = torch.finfo(dtype).eps
    x = torch.tensor([1 + eps / 2, 1 + 3 * eps / 2, 1 + eps / 2 * 1.01], dtype=torch.float64)
    assert rounded(x, precision).tolist() == [1.0, 1 + 2 * eps, 1 + eps]
    some = torch.randn(1 << 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 1e-3, 1e-6, 3e-8):  # fp16 has fewer bits for the small ones, and none
        assert torch.equal(rounded(some * scale, precision), (some * scale).to(dtype).double())
