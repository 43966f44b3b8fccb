"""What a block makes leaves beside what it computes: when, in which bits, and who waits for it."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models import block as block_module
from models.copies import CopiesBeside

from .test_copies import HeldWay


class AlwaysHeldWay(HeldWay):
    """Small copies too."""

    def is_quick(self, source: torch.Tensor) -> bool:
        return False


@pytest.fixture
def way(monkeypatch) -> AlwaysHeldWay:
    """Of all blocks that are made from now on."""
    way = AlwaysHeldWay()
    monkeypatch.setattr(block_module, "make_copies", lambda device, *, beside: CopiesBeside(way))
    return way


def test_activation_leaves_while_the_block_goes_on(cut_blocks, way):
    lower, _ = cut_blocks()
    lower._writes_output = False
    activation, _ = lower.forward(0, None)
    assert not lower.leaving.done()
    activation.zero_()
    threading.Thread(target=way.gate.release).start()
    lower.update(0)
    assert lower.leaving.done()
    assert activation.any()


def test_activation_has_left_before_a_guest_that_writes_over_it(cut_blocks, way):
    lower, _ = cut_blocks()
    lower._writes_output = True
    way.gate.release()
    lower.forward(0, None)
    assert lower.leaving.done()


@pytest.mark.parametrize("tie", ["gradient", "elastic"])
def test_bits_are_those_of_copies_at_once(cut_blocks, monkeypatch, tie):
    """Two steps: what leaves in the second was computed on what came of the first."""

    def train(blocks) -> list[torch.Tensor]:
        for step in range(2):
            activation = blocks[0].forward(step, None)
            blocks[0].leaving.wait()
            below = blocks[0].update(step)
            blocks[1].forward(step, activation)
            above = blocks[1].update(step)
            blocks[0].apply(step, None, above.down)
            blocks[1].apply(step, below.up, None)
        return [tensor for block in blocks for tensor in block.state().values()]

    expected = train(cut_blocks(tie=tie))
    way = AlwaysHeldWay()
    way.gate.release(100)
    monkeypatch.setattr(block_module, "make_copies", lambda device, *, beside: CopiesBeside(way))
    found = train(cut_blocks(tie=tie))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


class HostReads(TorchDispatchMode):
    """Counts the operations for whose value the host would wait for a GPU."""

    READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name in self.READS:
            self.found.append(name)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("tie", ["gradient", "elastic", "follow"])
def test_host_waits_once_in_a_step_for_what_is_computed(cut_blocks, monkeypatch, tie):
    """Loss and norm of the gradients were read one after the other, and each sent vector."""
    waits: list[int] = []
    read = block_module.numbers

    def counted(*scalars: torch.Tensor) -> list[float]:
        waits.append(len(scalars))
        return read(*scalars)

    monkeypatch.setattr(block_module, "numbers", counted)
    activation = None
    for block in cut_blocks(tie=tie, optimizer="torch.optim:SGD"):
        monkeypatch.setattr(block.probe, "observe", lambda *_: None)  # it computes on the host
        with HostReads() as reads:
            activation = block.forward(0, activation)
            ties = block.update(0)
            block.apply(0, ties.down, ties.up)
        assert reads.found == []
    assert waits == [2, 2]
