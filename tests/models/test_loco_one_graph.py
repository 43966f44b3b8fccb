"""`gradient` with lag 0 is LoCo: a third witness, written from the paper with autograd alone.

Here stages are truly shared and evaluated once, in one connected graph with nothing detached; the
gradient of each local loss is asked for the parameters of its own block only (arXiv 2008.01342,
section 3.1), and those of a shared stage are summed. Float64 and plain SGD, so that the two
programs differ by rounding alone.
"""

import copy
import itertools

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


def local_blocks(network: Network, partition: Partition, depth: int) -> list[LocalBlock]:
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
            learning=learning,
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
