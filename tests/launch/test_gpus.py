"""Which GPUs a process may use, and which of them is a worker's; there need be none here."""

import pytest
import torch

from launch.gpus import VISIBLE, are_mig, names_of, see_only, visible_gpus

INSTANCES = "MIG-a,MIG-b"


@pytest.mark.parametrize(
    ("listed", "count", "names"),
    [
        (None, 0, ()),
        (None, 2, ("0", "1")),
        ("", 0, ()),
        ("3, 1", 2, ("3", "1")),
        ("GPU-x,GPU-y", 2, ("GPU-x", "GPU-y")),
        ("0,7", 1, ("0",)),  # there is no seventh, and CUDA sees none behind it
        ("-1", 0, ()),
    ],
)
def test_gpus_are_named_as_the_environment_lists_them(listed, count, names):
    assert names_of(listed, lambda: count) == names


def test_instances_of_mig_count_by_their_names_and_cuda_is_not_asked():
    """CUDA shows one of them, and so two workers had one GPU and took turns on it."""

    def count() -> int:
        raise AssertionError("CUDA chooses an instance for good")

    assert names_of(INSTANCES, count) == ("MIG-a", "MIG-b")
    assert are_mig(names_of(INSTANCES, count))
    assert not are_mig(("0", "GPU-x"))


def test_torch_without_cuda_sees_no_gpu(monkeypatch):
    monkeypatch.setenv(VISIBLE, INSTANCES)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert visible_gpus() == ()


@pytest.mark.parametrize(("index", "own"), [(0, "2"), (1, "5"), (2, "2")])
def test_worker_sees_its_own_gpu_alone(monkeypatch, index, own):
    monkeypatch.setenv(VISIBLE, "2,5")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    see_only(visible_gpus(), index)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert visible_gpus() == (own,)
