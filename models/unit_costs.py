"""What units cost for one image: FLOPs, what is saved for the backward, weights.

Owns the counting. Knows nothing of blocks, or of where a network is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.flops import FlopCount
from models.network import NUM_BLANKS, Network, run_unit
from models.numerics import FP32, Numerics


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """One unit's: `flops` are of its forward; `kept_bytes` is what lives until its backward, its
    output included and its input not; `weight_bytes` counts parameters and buffers, once for all
    images."""

    flops: int
    kept_bytes: int
    weight_bytes: int


def count_unit_costs(
    network: Network, image_shape: tuple[int, int, int], numerics: Numerics = FP32
) -> list[UnitCost]:
    """Send two blank images (C, H, W) through the network, a unit at a time, as in training.

    On the CPU: the meta device first imports torch's compiler (1.3 s of every start).
    """
    costs = []
    x_BCHW = numerics.laid_out(torch.zeros(NUM_BLANKS, *image_shape))
    for index in range(len(network.units)):
        if index and x_BCHW.is_floating_point():
            x_BCHW = x_BCHW.requires_grad_().clone()  # no leaf: the unit may work in place on it
        cost, x_BCHW = _count(network, index, x_BCHW, numerics)
        costs.append(cost)
    return costs


def _count(
    network: Network, index: int, x_BCHW: Tensor, numerics: Numerics
) -> tuple[UnitCost, Tensor]:
    """Run one unit; return also what it gave, detached."""
    module = network.make_unit(index)
    cost, y_BCHW = count_cost(
        module, x_BCHW, lambda x: run_unit(network, index, module, x, numerics)
    )
    assert isinstance(y_BCHW, Tensor), "checked as it was run"
    return cost, y_BCHW.detach()


Output = Tensor | tuple[Tensor, ...]


def count_cost(
    module: nn.Module, x_BCHW: Tensor, run: Callable[[Tensor], Output]
) -> tuple[UnitCost, Output]:
    """What a module costs for one of the samples of a batch, and what `run` returned of it."""
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
        output = run(x_BCHW)
    for part in output if isinstance(output, tuple) else (output,):
        keep(part)
    weights = [*module.parameters(), *module.buffers()]
    for tensor in (x_BCHW, *weights):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    cost = UnitCost(
        flops=counter.total // len(x_BCHW),
        kept_bytes=sum(kept.values()) // len(x_BCHW),
        weight_bytes=sum(tensor.nbytes for tensor in weights),
    )
    return cost, output
