"""Memory of the host that a GPU is to read by itself; CUDA is a stand-in."""

import threading

import pytest
import torch

from models.side_stream import READ_ONLY, register


class Cuda:
    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.asked: list[tuple[int, int, int]] = []
        self.by: list[int] = []

    def cudaHostRegister(self, pointer: int, size_bytes: int, flags: int) -> int:  # noqa: N802
        self.asked.append((pointer, size_bytes, flags))
        self.by.append(threading.get_ident())
        return self.answer


@pytest.mark.parametrize(("answer", "is_well"), [(0, True), (801, False)])
def test_memory_is_registered_to_be_read_only(answer, is_well):
    """Not on the thread that computes: CUDA keeps what failed there."""
    memory, cuda = torch.zeros(100, dtype=torch.uint8), Cuda(answer)
    assert register(memory, cuda) is is_well
    assert cuda.asked == [(memory.data_ptr(), 100, READ_ONLY)]
    assert threading.get_ident() not in cuda.by


def test_no_memory_need_not_be_registered():
    cuda = Cuda(801)
    assert register(torch.empty(0), cuda)
    assert not cuda.asked
