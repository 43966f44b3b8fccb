"""What only a GPU can show of a block's device; without one each is skipped."""

import mmap

import pytest
import torch

from models.copies import CopiesBeside
from models.device import make_copies, make_cuda_deterministic
from models.sequential import train
from models.side_stream import SideStream
from runtime.block import TensorSpec
from runtime.state.mapped import mapped_tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

GPU, SIDE = torch.device("cuda"), 2048


def test_copy_has_what_was_computed_when_it_was_begun():
    """Also if the GPU is behind, and goes on with something else."""
    copies = CopiesBeside(SideStream(GPU))
    x = torch.eye(SIDE, device=GPU)
    for number in range(1, 20):
        y = x
        for _ in range(10):
            y = y @ x
        made = y * number
        there = copies.empty_on_host(made, made.dtype)
        copy = copies.copy_async(made, there)
        y @ x  # the GPU has more to do behind it
        copy.wait()
        assert torch.equal(there, number * torch.eye(SIDE))


def test_what_comes_is_there_when_it_is_waited_for():
    copies = make_copies(GPU, beside=True)
    for number in range(20):
        source = torch.full((SIDE, SIDE), float(number))
        here = copies.empty_on_device(source)
        copies.copy_async(source, here).wait()
        assert torch.equal(here.cpu(), source)


def test_memory_that_is_mapped_to_read_only_is_read_by_the_gpu(tmp_path):
    """As a neighbour's is; what fails to be registered must not fail the kernels after it."""
    values = torch.arange(SIDE, dtype=torch.float32)
    (tmp_path / "memory").write_bytes(values.numpy().tobytes())
    with (tmp_path / "memory").open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
    memory = mapped_tensor(mapping, 0, TensorSpec(shape=(SIDE,), dtype="float32"))
    copies = make_copies(GPU, beside=True)
    for _ in range(2):  # the second time it is registered already, an error
        copies.will_read(memory)
        here = copies.empty_on_device(memory)
        copies.copy_async(memory, here).wait()
        assert torch.equal((here + 1).cpu(), values + 1)


@pytest.mark.parametrize("tie", ["gradient", "elastic", "follow"])
def test_blocks_on_a_gpu_learn_the_same_bits_each_time(cut_blocks, tie):
    make_cuda_deterministic()
    runs = [cut_blocks((0, 2), tie=tie, device="cuda") for _ in range(2)]
    for blocks in runs:
        train(blocks, num_steps=5, lag=1)
    for first, second in zip(*runs, strict=True):
        for name, value in first.state().items():
            assert torch.equal(value, second.state()[name]), name
