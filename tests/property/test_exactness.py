"""The workers' cores, in any timing, compute bit for bit what the sequential reference computes.

Every cell of model x workers x tie x lag x overlap, in one process, with real blocks: once by
models.sequential, once on the simulated network with random durations and latencies. A cell that
means nothing is left out: without a shared unit, or with one worker, no tie and no lag are used.
"""

import random

import pytest
import torch
from torch import nn

from launch.config_file import parse
from launch.environment import Environment
from launch.job import build_blocks, worker_plan
from launch.planning.resolved import Resolved
from launch.resolve import resolve
from launch.source import make_source
from models import sequential
from models.block import Learning, LocalBlock
from models.data import load_data
from models.heads import HeadSpec
from models.network import from_sequential, trace_units
from models.objectives import NTXent
from runtime.testing.simulation import Simulation

STEPS = 5
HERE = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    return load_data("digits", seed=0)


def cells() -> list[tuple[str, int, int | str, str, int]]:
    """(model, workers, overlap, tie, lag); with three workers edges share unequally."""
    tied = [(tie, lag) for tie in ("gradient", "elastic", "follow") for lag in (0, 1, 3)]
    found = []
    for model in ("mlp", "resnet-small"):
        found.append((model, 1, 0, "elastic", 1))
        for workers in (2, 4):
            found.append((model, workers, 0, "elastic", 1))
            found.append((model, workers, 1, "none", 1))
            found += [(model, workers, 1, tie, lag) for tie, lag in tied]
    return found + [("mlp", 3, "1,2", tie, lag) for tie, lag in tied]


def resolved(
    model: str, workers: int, overlap: int | str, tie: str, lag: int, *more: str
) -> Resolved:
    flags = f"--model {model} --workers {workers} --overlap {overlap} --tie {tie} --lag {lag}"
    small = {"--steps": STEPS, "--batch-size": 8, "--decoder-depth": 0, "--alpha": 0.1}
    small |= dict(zip(more[::2], more[1::2], strict=True))
    argv = [*flags.split(), "--device", "cpu"]
    argv += [word for flag, value in small.items() for word in (flag, str(value))]
    return resolve(parse(argv, prog="exactness"), environment=HERE)


def in_sequence(run: Resolved, data) -> list[LocalBlock]:
    blocks = build_blocks(run, data)
    sequential.train(blocks, num_steps=STEPS, lag=run.config.lag)
    return blocks


def on_the_network(run: Resolved, data, *, seed: int) -> list[LocalBlock]:
    blocks = build_blocks(run, data)
    rng = random.Random(seed)
    simulation = Simulation(
        [worker_plan(run, k) for k in range(len(blocks))],
        blocks=blocks,
        duration_s=lambda k, phase, step: rng.expovariate(20),
        latency_s=lambda a, b: rng.choice([0.0, rng.expovariate(5)]),
    )
    simulation.run()
    for worker in simulation.workers:
        assert not worker.inbox
        durable = {s: outgoing.durable for s, outgoing in worker.core.edges.outgoing.items()}
        assert all(step < durable[stream] for stream, step in worker.outbox)
    return blocks


def assert_same(left: list[LocalBlock], right: list[LocalBlock]) -> None:
    """Bit by bit, everything that the blocks hold."""
    for k, (a, b) in enumerate(zip(left, right, strict=True)):
        states = a.state(), b.state()
        assert list(states[0]) == list(states[1])
        for name, tensor in states[0].items():
            other = states[1][name]
            assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), (k, name)
            assert torch.equal(as_bytes(tensor), as_bytes(other)), (k, name)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


@pytest.mark.parametrize(("model", "workers", "overlap", "tie", "lag"), cells())
def test_network_computes_what_the_sequence_computes(model, workers, overlap, tie, lag, data):
    run = resolved(model, workers, overlap, tie, lag)
    assert_same(in_sequence(run, data), on_the_network(run, data, seed=lag))


@pytest.mark.parametrize(
    "how", [("--precision", "bf16"), ("--lr-scale", "1,.5"), ("--optimizer", "lars")]
)
def test_network_computes_the_same_however_units_compute(how, data):
    run = resolved("resnet-small", 2, 1, "gradient", 1, *how)
    assert_same(in_sequence(run, data), on_the_network(run, data, seed=1))


@pytest.mark.parametrize("model", ["mlp", "resnet-small"])
def test_timing_changes_nothing(model, data):
    run = resolved(model, 4, 1, "elastic", 1, "--decoder-depth", "1")
    first = on_the_network(run, data, seed=1)
    assert_same(first, on_the_network(run, data, seed=2))
    assert_same(first, in_sequence(run, data))


def test_run_twice_is_the_same(data):
    run = resolved("resnet-small", 2, 1, "elastic", 1)
    assert_same(in_sequence(run, data), in_sequence(run, data))


@pytest.mark.parametrize(
    ("flag", "one", "other"), [("--seed", "0", "1"), ("--alpha", "0.1", "0.2")]
)
def test_comparison_sees_a_difference(flag, one, other, data):
    runs = [
        in_sequence(resolved("mlp", 2, 1, "elastic", 1, flag, value), data)
        for value in (one, other)
    ]
    with pytest.raises(AssertionError):
        assert_same(*runs)


@pytest.mark.parametrize("tie", ["gradient", "elastic"])
def test_lag_is_part_of_the_result(tie, data):
    """Otherwise the cells above could not tell a wrong lag."""
    runs = [in_sequence(resolved("mlp", 2, 1, tie, lag), data) for lag in (0, 1, 3)]
    for a in range(3):
        for b in range(a):
            with pytest.raises(AssertionError):
                assert_same(runs[a], runs[b])


def test_later_partner_gives_another_result(data):
    """The overlap is felt: a private decoder is no replica."""
    with pytest.raises(AssertionError):
        assert_same(
            in_sequence(resolved("mlp", 2, 1, "none", 1), data),
            in_sequence(resolved("mlp", 2, 1, "elastic", 1), data),
        )


def test_no_gradient_crosses_an_edge(data):
    lower, upper = build_blocks(resolved("resnet-small", 2, 1, "none", 1), data)
    activation = lower.forward(0, None)
    assert not any(tensor.requires_grad for tensor in activation)
    assert all(tensor.grad_fn is None for tensor in activation)
    upper.forward(0, activation)
    upper.update(0)
    parameters = [p for part in (lower._home, lower._guest, lower._head) for p in part.parameters()]
    assert all(p.grad is None for p in parameters)
    assert activation[0].grad is None


def test_block_learns_the_same_whatever_is_above_it(data):
    """Two runs that differ only in the upper block end with the same lower block."""
    below = [
        in_sequence(
            resolved("mlp", 2, 1, "none", 1, "--cuts", "0,2", "--decoder-depth", depths), data
        )[0]
        for depths in ("0,0", "0,1")
    ]
    assert_same(below[:1], below[1:])


# A user's network whose unit works in place on its input ---------------------------------------


def in_place_network():
    """The second unit, which is the guest, overwrites what it is given."""

    def build() -> nn.Sequential:
        first = nn.Sequential(nn.Flatten(1), nn.Linear(256, 24), nn.LayerNorm(24))
        second = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(24, 24))
        return nn.Sequential(first, second, nn.Sequential(nn.Linear(24, 24), nn.ReLU()))

    return from_sequential("in-place", build, seed=0)


def in_place_blocks(data) -> tuple[list[LocalBlock], Resolved]:
    network = in_place_network()
    run = resolved("mlp", 2, 1, "elastic", 1)  # for its plans, source and learning
    traces = trace_units(network, data.image_shape)
    learning = Learning(
        tie="elastic",
        alpha=0.1,
        optimizer="sgd",
        lr=0.05,
        weight_decay=0.0,
        schedule="constant",
        warmup_steps=0,
        num_steps=STEPS,
        seed=0,
    )
    ranges = [(range(1), range(1, 2), range(0)), (range(1, 3), range(3, 3), range(1, 2))]
    blocks = [
        LocalBlock(
            network,
            home=home,
            guest=guest,
            lent=lent,
            learning=learning,
            objective=NTXent(0.5),
            num_classes=10,
            head=HeadSpec(in_shape=traces[(*home, *guest)[-1]].output_shape),
            home_shape=traces[home[-1]].output_shape,
            source=None if lent else make_source(run.config, data, device="cpu"),
        )
        for home, guest, lent in ranges
    ]
    return blocks, run


def test_guest_that_works_in_place_spoils_nothing_that_is_sent(data):
    (lower, _), _ = in_place_blocks(data)
    activation, _ = lower.forward(0, None)
    before = activation.clone()
    assert (before < 0).any()
    lower.update(0)
    assert torch.equal(activation, before)


def test_home_that_works_in_place_spoils_nothing_of_its_sender(data):
    """The receiver may overwrite its own input; the sequence hands it the very same tensor."""
    blocks, run = in_place_blocks(data)
    sequential.train(blocks, num_steps=STEPS, lag=1)
    others, _ = in_place_blocks(data)
    rng = random.Random(0)
    Simulation(
        [worker_plan(run, k) for k in range(2)],
        blocks=others,
        duration_s=lambda k, phase, step: rng.expovariate(20),
        latency_s=lambda a, b: rng.expovariate(20),
    ).run()
    assert_same(blocks, others)
