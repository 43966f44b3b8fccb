"""Units that a user may well have: of other dtypes, of sequences, tied within.

Two blocks of them train in one process, as the workers' would, and what they hold is loaded back.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from launch.planning.partition import Partition
from models.block import Learning, LocalBlock
from models.data import ImageData
from models.evaluation.unit_accuracy import evaluate
from models.heads import HeadSpec
from models.network import Network, build_plain, from_sequential, trace_units
from models.objectives import NTXent
from models.sequential import train

IMAGE = (1, 4, 4)
BATCH = 5


def source(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(BATCH, *IMAGE, generator=generator)
    noise = 0.05 * torch.rand(2 * BATCH, *IMAGE, generator=generator)
    return images.repeat(2, 1, 1, 1) + noise, torch.arange(BATCH) % 2


def blocks_of(network: Network, tie: str, optimizer: str) -> list[LocalBlock]:
    """Cut after the first two units; the third is the lower block's guest."""
    traces = trace_units(network, IMAGE)
    learning = Learning(
        tie=tie,
        alpha=0.25,
        optimizer=optimizer,
        lr=0.01,
        weight_decay=0.01,
        schedule="constant",
        warmup_steps=0,
        num_steps=9,
        seed=1,
    )
    partition = Partition(num_units=len(network.units), cuts=(0, 2), overlaps=(1,))
    return [
        LocalBlock(
            network,
            home=block.home,
            guest=block.guest,
            lent=partition.blocks[k - 1].guest if k else range(0),
            learning=learning,
            objective=NTXent(0.5),
            num_classes=2,
            head=HeadSpec(in_shape=traces[(*block.home, *block.guest)[-1]].output_shape, depth=1),
            home_shape=traces[block.home[-1]].output_shape,
            source=None if k else source,
        )
        for k, block in enumerate(partition.blocks)
    ]


def trained(
    network: Network, tie: str, *, optimizer: str = "adamw", num_steps: int = 3
) -> list[LocalBlock]:
    blocks = blocks_of(network, tie, optimizer)
    train(blocks, num_steps=num_steps, lag=1)
    assert all(math.isfinite(block.loss) for block in blocks)
    return blocks


def check_loads_back(network: Network, tie: str, optimizer: str = "adamw") -> None:
    """A block that takes over another's state ends in the same bits as the other."""
    blocks = trained(network, tie, optimizer=optimizer)
    copies = blocks_of(network, tie, optimizer)
    for block, other in zip(blocks, copies, strict=True):
        other.load(block.state())
    first = [block.state() for block in blocks]
    second = [block.state() for block in copies]
    for state, copy in zip(first, second, strict=True):
        assert state.keys() == copy.keys()
        for name, tensor in state.items():
            assert tensor.dtype == copy[name].dtype
            assert torch.equal(tensor, copy[name]), name


class Computes(nn.Module):
    """A linear layer in another dtype, whose output stays in it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.layer.weight.dtype))


class Autocast(nn.Module):
    """A float32 layer that computes, and gives, bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x)


class Spectral(nn.Module):
    """Complex inside: a buffer, or a parameter."""

    def __init__(self, *, learns: bool) -> None:
        super().__init__()
        filters = torch.randn(9, dtype=torch.complex64)
        self.filters = nn.Parameter(filters) if learns else nn.Buffer(filters)
        self.sums = nn.Buffer(torch.zeros(9, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        spectrum_NF = torch.fft.rfft(x)
        self.sums += spectrum_NF.detach().mean(dim=0)
        return torch.fft.irfft(spectrum_NF * self.filters)


UNITS = {
    "bfloat16": lambda: Computes(torch.bfloat16),
    "float16": lambda: Computes(torch.float16),
    "float64": lambda: Computes(torch.float64),
    "autocast": Autocast,
    "complex buffer": lambda: Spectral(learns=False),
    "complex parameter": lambda: Spectral(learns=True),
}


@pytest.mark.parametrize("tie", ["none", "gradient", "elastic"])
@pytest.mark.parametrize("name", UNITS)
def test_unit_may_compute_in_another_dtype(name, tie):
    """bfloat16 from an autocast ended in a head's "mat1 and mat2 must have the same dtype"."""

    def build():
        first = nn.Sequential(nn.Flatten(), nn.Linear(16, 16))
        return nn.Sequential(first, UNITS[name](), UNITS[name](), UNITS[name]())

    optimizer = "sgd" if name == "float16" else "adamw"  # whose eps of 1e-8 is 0 in float16
    check_loads_back(from_sequential("mine", build, seed=0), tie, optimizer)


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 16, bias=False)
        self.down = nn.Linear(16, 16, bias=False)
        self.down.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.tanh(self.up(x)))
        return y


def test_weight_that_is_tied_within_a_unit_stays_tied():
    """A copy, a step, or a state that is loaded would leave two weights in place of one."""

    def build():
        return nn.Sequential(nn.Flatten(), Tied(), Tied(), Tied())

    network = from_sequential("mine", build, seed=0)
    check_loads_back(network, "gradient")
    blocks = blocks_of(network, "gradient", "adamw")
    for block, source in zip(blocks, trained(network, "gradient"), strict=True):
        block.load(source.state())
    train(blocks, num_steps=1, lag=1)
    weights = blocks[0].home_state() | blocks[1].home_state()
    assert {"1.up.weight", "1.down.weight"} <= weights.keys()
    assert weights["2.up.weight"].data_ptr() == weights["2.down.weight"].data_ptr()
    build_plain(network, seed=0).load_state_dict(weights)


class Patches(nn.Module):
    """Four patches of an image, each an embedding, with their places: (N, 1, 4, 4) -> (N, 4, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, kernel_size=2, stride=2)
        self.places = nn.Parameter(0.1 * torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).flatten(2).mT + self.places


def transformer() -> nn.Sequential:
    def layer():
        return nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True)

    return nn.Sequential(Patches(), layer(), layer())


@pytest.mark.parametrize("tie", ["none", "gradient"])
def test_transformer_trains_and_is_evaluated(tie):
    """Units of (N, L, D) had a head over L, or none: all of them were refused."""
    network = from_sequential("vit", transformer, seed=0)
    check_loads_back(network, tie)
    lower, upper = trained(network, tie, num_steps=20)
    assert lower.probe.state()["weight"].shape == (2, 8 + 1)  # D features and a bias

    images, labels = source(0)[0], torch.arange(2 * BATCH) % 2
    data = ImageData(
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        num_classes=2,
    )
    accuracies = evaluate(network, lower.home_state() | upper.home_state(), data)
    assert [accuracy.name for accuracy in accuracies] == ["0", "1", "2"]


def test_transformers_classifier_pools_its_sequence():
    units = from_sequential("vit", transformer, seed=0).units
    network = Network(name="vit", units=units, num_features=8)
    assert build_plain(network, seed=0, num_classes=3)(torch.rand(2, *IMAGE)).shape == (2, 3)
