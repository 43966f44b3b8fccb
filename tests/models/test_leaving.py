"""What a block makes leaves beside what it computes: when, in which bits, and who waits for it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models import block as block_module
from models.copies import Copies, CopiesAtOnce, CopiesBeside, HostsWay


class LateCopy:
    """A copy that is made when it is waited for, and no earlier."""

    def __init__(self, source: torch.Tensor, into: torch.Tensor) -> None:
        self._pair = source, into
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def wait(self) -> None:
        source, into = self._pair
        into.copy_(source)
        self._is_done = True


class LateCopies(CopiesAtOnce):
    def copy_async(self, source: torch.Tensor, into: torch.Tensor) -> LateCopy:
        return LateCopy(source, into)


class ThreadsWay(HostsWay):
    """Small copies are made by the thread, too."""

    def is_quick(self, source: torch.Tensor) -> bool:
        return False


def use(monkeypatch, copies: Copies) -> None:
    """In all blocks that are made from now on."""
    monkeypatch.setattr(block_module, "make_copies", lambda device, *, beside: copies)


def test_activation_may_leave_until_the_end_of_the_update(cut_blocks, monkeypatch):
    expected, _ = cut_blocks()[0].forward(0, None)
    use(monkeypatch, LateCopies(HostsWay()))
    lower, _ = cut_blocks()
    lower._writes_output = False
    activation, _ = lower.forward(0, None)
    assert not lower.leaving.done()
    lower.update(0)
    assert lower.leaving.done()
    assert torch.equal(activation, expected)


def test_activation_has_left_before_a_guest_that_writes_over_it(cut_blocks, monkeypatch):
    use(monkeypatch, LateCopies(HostsWay()))
    lower, _ = cut_blocks()
    lower._writes_output = True
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
    use(monkeypatch, CopiesBeside(ThreadsWay()))
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
