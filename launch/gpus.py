"""Which GPUs a process may use, and which of them is a worker's own.

Owns CUDA_VISIBLE_DEVICES: a worker sees no GPU but its own, so that whatever computes there, a
user's code included, is where it belongs. Instances of MIG are GPUs of their own, which CUDA shows
to a process one at a time; so they count by their names in that list.
"""

import os
from collections.abc import Callable, Sequence

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG = "MIG-"  # what begins the name of an instance


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    if not torch.backends.cuda.is_built():
        return ()
    return names_of(os.environ.get(VISIBLE), torch.cuda.device_count)


def names_of(listed: str | None, count: Callable[[], int]) -> tuple[str, ...]:
    """The same, given what is listed there, and what counts GPUs that are none of MIG's: it is not
    called for those, since it would let CUDA choose one of them for good."""
    names = [] if listed is None else [name.strip() for name in listed.split(",")]
    if any(name.startswith(MIG) for name in names):
        return tuple(dict.fromkeys(names))
    return tuple(map(str, range(count()))) if listed is None else tuple(names[: count()])


def are_mig(gpus: Sequence[str]) -> bool:
    """Whether GPUs are instances of MIG, between which NCCL moves nothing."""
    return any(name.startswith(MIG) for name in gpus)


def see_only(gpus: Sequence[str], index: int) -> None:
    """Let this process see one GPU, its host's workers' in turn if there are fewer; call before
    CUDA is first used."""
    os.environ[VISIBLE] = gpus[index % len(gpus)]
