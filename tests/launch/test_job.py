"""What a resolved config becomes: blocks whose messages fit the specs, and plans."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import safetensors.torch
import torch

from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.planning.resolved import Resolved
from launch.program import load_job
from launch.resolve import dump, resolve
from models.bad_numbers import BadNumbers
from models.block import LocalBlock
from models.numerics import FP32, Numerics
from models.sequential import train
from models.unsaveable import Unsaveable
from runtime.block import message_bytes
from runtime.core.plan import Stream
from runtime.state.safetensors_file import file_pieces

from .environs import ENV, TORCHRUN

MACHINE = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)
FLAGS = ("--batch-size", "8", "--steps", "3")


def resolved(*flags: str) -> Resolved:
    return resolve(parse([*FLAGS, *flags], prog="test"), environment=MACHINE)


WIRES = (
    "",
    "--wire-precision bf16",
    "--wire-precision fp16 --wire-ties",
    "--wire-precision exact,bf16,fp16 --wire-ties",
    "--wire-precision fp16 --precision bf16",
    "--wire-precision fp16 --channels-last",
)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("tie", ["gradient", "elastic", "follow", "none"])
@pytest.mark.parametrize("model", ["mlp", "resnet-small"])
def test_block_outputs_fit_what_was_agreed(model, tie, wire):
    if tie == "none":
        wire = wire.replace("--wire-ties", "")
    flags = ("--model", model, "--tie", tie, "--workers", "4", *wire.split())
    job = LocalLearningJob(resolved(*flags))
    activation = None
    for k in range(4):
        block = job.build_block(k)
        activation = block.forward(0, activation)
        ties = block.update(0)
        upward = {Stream.ACTIVATION: activation, Stream.TIE_UP: ties.up} if k < 3 else {}
        downward = {Stream.TIE_DOWN: ties.down} if k > 0 else {}
        for made, edge in ((upward, k), (downward, k - 1)):
            for stream, payload in made.items():
                assert (payload is not None) == (stream in job.plan(k).outgoing)
                for spec, tensor in zip(
                    job.specs(edge).get(stream, ()), payload or (), strict=True
                ):
                    spec.check(tensor)


def test_default_is_locos_cut_with_one_unit_shared():
    job = LocalLearningJob(resolved())
    assert [job.unit_names(k) for k in range(4)] == [
        (["stem"], ["layer1.0"]),
        (["layer1.0"], ["layer2.0"]),
        (["layer2.0"], ["layer3.0"]),
        (["layer3.0", "layer4.0"], []),
    ]


def test_windows_hold_what_the_lag_needs():
    job = LocalLearningJob(resolved("--lag", "3"))
    plan = job.plan(1)
    for windows in (plan.incoming, plan.outgoing):
        assert windows[Stream.TIE_DOWN].max_messages == 4
        for stream, window in windows.items():
            assert window.max_bytes == window.max_messages * window.message_bytes, stream
    size = message_bytes(job.specs(1)[Stream.ACTIVATION])
    assert plan.outgoing[Stream.ACTIVATION].message_bytes == size


def dtypes(job: LocalLearningJob) -> list[list[str]]:
    """What crosses each edge: activation, labels, ties up and down."""
    return [
        [spec.dtype for stream in Stream for spec in job.specs(edge)[stream]] for edge in range(3)
    ]


def test_edges_say_what_crosses_them_rounded():
    found = dtypes(LocalLearningJob(resolved("--wire-precision", "exact,bf16,fp16")))
    assert found == [[t, "int64", "float32", "float32"] for t in ("float32", "bfloat16", "float16")]
    flags = ("--wire-precision", "exact,bf16,fp16", "--wire-ties")
    found = dtypes(LocalLearningJob(resolved(*flags)))
    assert found == [[t, "int64", t, t] for t in ("float32", "bfloat16", "float16")]


def test_activations_in_bf16_cross_an_edge_of_fp16_as_they_are():
    flags = ("--precision", "bf16", "--wire-precision", "fp16", "--wire-ties")
    found = dtypes(LocalLearningJob(resolved(*flags)))
    assert found == [["bfloat16", "int64", "float16", "float16"]] * 3


def test_message_of_a_rounding_edge_is_half_as_large_and_so_its_window():
    plain, rounded = (
        LocalLearningJob(resolved(*flags))
        for flags in ((), ("--wire-precision", "bf16", "--wire-ties"))
    )
    labels = 8 * 8
    for k in range(4):
        for side in ("incoming", "outgoing"):
            for stream, window in getattr(rounded.plan(k), side).items():
                whole = getattr(plain.plan(k), side)[stream]
                more = labels if stream is Stream.ACTIVATION else 0
                assert 2 * (window.message_bytes - more) == whole.message_bytes - more
                assert window.max_bytes == window.max_messages * window.message_bytes
                assert window.max_messages == whole.max_messages


@pytest.mark.parametrize("flags", ["", "--wire-ties"])
def test_neighbours_agree_on_every_stream(flags):
    wire = ("--wire-precision", "exact,bf16,fp16", *flags.split()) if flags else ()
    job = LocalLearningJob(resolved("--tie", "gradient", *wire))
    for k in range(3):
        lower, upper = job.plan(k), job.plan(k + 1)
        for stream in Stream:
            sender, receiver = (upper, lower) if stream is Stream.TIE_DOWN else (lower, upper)
            assert sender.outgoing[stream].max_retained is not None
            assert sender.outgoing[stream] == receiver.incoming[stream]


def test_job_tells_its_faults_patience_and_end():
    flags = ("--faults", "kill:1@2, nan:0@1", "--hang-timeout-s", "30")
    job = LocalLearningJob(resolved(*flags))
    assert [str(fault) for fault in job.faults] == ["kill:1@2", "nan:0@1"]
    assert job.patience_s > 300  # a silent neighbour is its keeper's business first
    assert {BadNumbers, Unsaveable} <= set(job.final_errors)


@pytest.mark.parametrize(
    ("variables", "own"),
    [({}, "GPU-b"), (ENV, "GPU-b"), (TORCHRUN | {"LOCAL_RANK": "0"}, "GPU-a")],
)
def test_worker_takes_the_gpu_of_its_place_on_its_host(monkeypatch, variables, own):
    """Ranks that a launcher deals out to hosts in turn: 1 and 3 are the first two of theirs, and
    shared its second GPU."""
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setattr("launch.job.visible_gpus", lambda: ("GPU-a", "GPU-b"))
    on_cpu = resolved()
    LocalLearningJob(on_cpu).take_device(3)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    on_gpus = replace(on_cpu, config=replace(on_cpu.config, device="cuda"))
    LocalLearningJob(on_gpus).take_device(3)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own


def test_gpu_without_memory_ends_the_job_with_one_message(monkeypatch):
    """It was a traceback of torch's, after as many restarts as a worker has."""
    job = LocalLearningJob(resolved())
    assert torch.OutOfMemoryError in job.final_errors
    assert job.describe(1, BadNumbers("not finite")) == "not finite"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3 * 10**9, 16 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2 * 10**9)
    told = job.describe(1, torch.OutOfMemoryError("CUDA out of memory"))
    assert told.startswith("worker 1 is out of GPU memory: its block needs about ")
    assert "of 16,000 MB 5,000 are free for it" in told


@pytest.mark.parametrize(
    ("cores", "workers_per_host", "shares"), [(4, 4, False), (3, 4, True), (2, 2, False)]
)
def test_workers_share_cores_if_a_host_has_fewer(monkeypatch, cores, workers_per_host, shares):
    """Ranks that are bound to cores of their own see these alone, and shared none."""
    monkeypatch.setattr("launch.job.usable_cores", lambda: 1)
    found = resolved("--workers", "4", "--threads", "1")
    job = LocalLearningJob(replace(found, cores=cores, workers_per_host=workers_per_host))
    assert job.shares_cores is shares


def test_block_loads_what_another_generation_left():
    job = LocalLearningJob(resolved("--model", "mlp"))
    block, again = (job.build_block(0) for _ in range(2))
    for step in range(2):
        block.forward(step, None)
        block.update(step)
        block.apply(step, None, None)
    state = block.state()
    found = safetensors.torch.load(b"".join(file_pieces(state)))
    again.load(found)
    assert again.state().keys() == block.state().keys()
    for name, tensor in block.state().items():
        assert torch.equal(again.state()[name], tensor), name
    a, b = block.forward(2, None), again.forward(2, None)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


SCALED = (
    *("--model", "mlp", "--decoder-depth", "0", "--workers", "3", "--overlap", "1"),
    *("--tie", "gradient", "--lag", "0", "--optimizer", "sgd", "--lr", "0.1"),
)


def homes(blocks: Sequence[LocalBlock]) -> list[torch.Tensor]:
    """A copy of each home as one vector."""
    return [torch.cat([w.flatten() for w in block.home_state().values()]) for block in blocks]


def blocks_after(num_steps: int, lr_scale: str) -> list[LocalBlock]:
    job = LocalLearningJob(resolved(*SCALED, "--lr-scale", lr_scale))
    blocks = [job.build_block(k) for k in range(3)]
    train(blocks, num_steps=num_steps, lag=0)
    return blocks


def test_guest_stays_its_home_whatever_their_scales():
    """Tied by gradients without lag, each takes the step of the other."""
    for lower, upper in pairwise(block.state() for block in blocks_after(3, "1,.5,2")):
        guest = [name for name in lower if name.startswith("guest/")]
        assert guest
        for name in guest:
            assert torch.equal(lower[name], upper[name.replace("guest", "home", 1)]), name


def test_first_step_is_as_long_as_a_blocks_own_scale():
    start = homes(blocks_after(0, "1"))
    plain, scaled = (homes(blocks_after(1, scale)) for scale in ("1", "1,.5,2"))
    for scale, before, one, other in zip((1, 0.5, 2), start, plain, scaled, strict=True):
        assert not torch.equal(one, before)
        torch.testing.assert_close(other - before, scale * (one - before))


@pytest.mark.parametrize(
    ("flags", "numerics", "grad_clip"),
    [
        ((), FP32, None),
        (("--precision", "bf16"), Numerics(precision="bf16"), None),
        (("--channels-last",), Numerics(channels_last=True), None),
        (("--recompute",), Numerics(recompute=True), None),
        (("--grad-clip", "0.5"), FP32, 0.5),
    ],
)
def test_flag_reaches_what_each_block_learns_by(flags, numerics, grad_clip):
    job = LocalLearningJob(resolved("--model", "mlp", "--workers", "2", *flags))
    learnings = [job.build_block(k).learning for k in range(2)]
    assert [(each.numerics, each.grad_clip) for each in learnings] == [(numerics, grad_clip)] * 2


def test_private_guest_costs_no_messages():
    job = LocalLearningJob(resolved("--tie", "none"))
    assert set(job.specs(0)) == {Stream.ACTIVATION}


def test_guest_that_follows_sends_nothing_up():
    job = LocalLearningJob(resolved("--model", "mlp", "--tie", "follow"))
    assert set(job.specs(0)) == {Stream.ACTIVATION, Stream.TIE_DOWN}


def test_job_travels_as_text():
    first = resolved("--workers", "3", "--lag", "2", "--decoder-depth", "1,0,0")
    job = load_job(first.config, dump(first))
    assert job.resolved.config == first.config
    assert job.resolved.partition == first.partition
    assert job.resolved.image_shape == first.image_shape
    assert [job.plan(k) for k in range(3)] == [LocalLearningJob(first).plan(k) for k in range(3)]


def test_feed_is_a_function_of_the_step():
    block, again = (LocalLearningJob(resolved()).build_block(0) for _ in range(2))
    a, b = block.forward(2, None), again.forward(2, None)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    c = again.forward(1, None)
    assert not torch.equal(a[0], c[0])
