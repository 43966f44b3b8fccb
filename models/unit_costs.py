"""What units cost for one image: FLOPs, what is saved for the backward, weights.

Owns the counting. Knows nothing of blocks, or of where a network is cut.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.flops import FlopCount
from models.network import NUM_BLANKS, Network, run_unit


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """One unit's: `flops` are of its forward; `kept_bytes` is what lives until its backward, its
    output included and its input not; `weight_bytes` counts parameters and buffers, once for all
    images."""

    flops: int
    kept_bytes: int
    weight_bytes: int


def count_unit_costs(network: Network, image_shape: tuple[int, int, int]) -> list[UnitCost]:
    """Send two blank images (C, H, W) through the network, a unit at a time, as in training.

    On the CPU: the meta device first imports torch's compiler (1.3 s of every start).
    """
    costs = []
    x_BCHW = torch.zeros(NUM_BLANKS, *image_shape)
    for index in range(len(network.units)):
        if index and x_BCHW.is_floating_point():
            x_BCHW = x_BCHW.requires_grad_().clone()  # no leaf: the unit may work in place on it
        cost, x_BCHW = _count(network, index, x_BCHW)
        costs.append(cost)
    return costs


def _count(network: Network, index: int, x_BCHW: Tensor) -> tuple[UnitCost, Tensor]:
    """Run one unit; return also what it gave, detached."""
    module = network.make_unit(index)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.enable_grad(),
        FlopCount() as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        y_BCHW = run_unit(network, index, module, x_BCHW)
    keep(y_BCHW)
    weights = [*module.parameters(), *module.buffers()]
    for tensor in (x_BCHW, *weights):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    cost = UnitCost(
        flops=counter.total // NUM_BLANKS,
        kept_bytes=sum(kept.values()) // NUM_BLANKS,
        weight_bytes=sum(tensor.nbytes for tensor in weights),
    )
    return cost, y_BCHW.detach()
