"""A small network, as all systems get it."""

import pytest
import torch

from benchmarks.alternatives.systems import Task


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def task():
    flags = ("--model", "resnet18-cifar-w4", "--data", "synthetic:3x32x32x64")
    small = ("--batch-size", "16", "--decoder-depth", "0", "--schedule", "constant")
    return Task(flags=(*flags, *small), batch_size=16)
