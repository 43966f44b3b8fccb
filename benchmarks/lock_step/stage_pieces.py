"""The pieces that a lock-step pipeline's stages are made of: units, and heads with their losses.

Owns what pieces there are, where they are cut, and their modules. Knows nothing of schedules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from launch.planning.costs import counted_costs
from launch.planning.resolved import Resolved
from models import randomness
from models.heads import load_head
from models.numerics import Numerics

Heads = Literal["blocks", "top"]
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A unit, or the `head` of so many blocks below it on that unit. `output_shape` is one
    sample's, of what the next piece takes, and `output_dtype` its type. `cost`: a step's, by what
    the main job's cuts are chosen."""

    unit: int
    head: int | None = None
    cost: float
    output_shape: tuple[int, ...]
    output_dtype: str


def pieces(resolved: Resolved, heads: Heads) -> list[Piece]:
    """The row of all pieces: a head comes behind the last unit of its block's home, and those
    below the top pass on what they are given."""
    workload, traces = resolved, resolved.traces
    costs = resolved.measured or counted_costs(workload)
    ends = [block.home[-1] for block in resolved.partition.blocks]
    row = []
    for unit, cost in enumerate(costs.units):
        shape, dtype = traces[unit].output_shape, traces[unit].output_dtype
        source = 0.0 if unit else costs.source
        row.append(
            Piece(unit=unit, cost=source + cost.step, output_shape=shape, output_dtype=dtype)
        )
        is_top = unit == ends[-1]
        if is_top or (heads == "blocks" and unit in ends):
            index = ends.index(unit)
            head = workload.head(unit, index)
            gives = (head.out_features or head.features,) if is_top else shape
            row.append(
                Piece(
                    unit=unit,
                    head=index,
                    cost=costs.heads[unit][index].step,
                    output_shape=gives,
                    output_dtype=dtype,
                )
            )
    return row


def cut_row(costs: Sequence[float], ranks: Sequence[int]) -> list[range]:
    """Cut pieces into stages, one for each of `ranks`, so that the busiest rank has least to do.

    Raises ValueError if there are fewer pieces than stages.
    """
    if len(costs) < len(ranks):
        raise ValueError(
            f"{len(costs)} units and heads can't be {len(ranks)} stages; take fewer workers"
        )

    def stages(cuts: Sequence[int]) -> list[range]:
        return [range(start, stop) for start, stop in pairwise((0, *cuts, len(costs)))]

    def busiest(cuts: Sequence[int]) -> float:
        of_rank = dict.fromkeys(ranks, 0.0)
        for rank, own in zip(ranks, stages(cuts), strict=True):
            of_rank[rank] += sum(costs[piece] for piece in own)
        return max(of_rank.values())

    return stages(min(combinations(range(1, len(costs)), len(ranks) - 1), key=busiest))


# Modules ----------------------------------------------------------------------------------------


def build_stage(
    resolved: Resolved, row: Sequence[Piece], loss: Loss, *, defers_heads: bool
) -> nn.Sequential:
    """Build pieces in a row. Heads below the top add `loss` of their output to the one above;
    if that is deferred, they are run in the backward only."""
    top = len(resolved.partition.blocks) - 1
    modules = []
    for piece in row:
        module = _build(resolved, piece)
        is_below = piece.head is not None and piece.head != top
        modules.append(LossBelow(module, loss, is_deferred=defers_heads) if is_below else module)
    return nn.Sequential(*modules)


class OnWire(nn.Module):
    """A stage that takes and gives activations in the order in which they lie in memory, which is
    the one that gloo can send."""

    def __init__(self, stage: nn.Module, numerics: Numerics, *, is_first: bool, is_last: bool):
        super().__init__()
        self.stage = stage
        self._numerics = numerics
        self._is_first, self._is_last = is_first, is_last

    def forward(self, x: Tensor) -> Tensor:
        numerics = self._numerics
        y: Tensor = self.stage(numerics.laid_out(x) if self._is_first else numerics.from_wire(x))
        return y if self._is_last else numerics.to_wire(y).contiguous()


def _build(resolved: Resolved, piece: Piece) -> nn.Module:
    """A unit, or a head, with the weights that the main job begins with."""
    config, network = resolved.config, resolved.network
    if piece.head is None:
        return InPrecision(network.build_unit(piece.unit, seed=config.seed), resolved.numerics)
    spec = resolved.head(piece.unit, piece.head)  # before its weights' draw is seeded
    randomness.seed_torch(config.seed, "head", unit=network.units[piece.unit].name)
    return InPrecision(load_head(spec), resolved.numerics)


class InPrecision(nn.Module):
    """A unit or a head under the run's autocast, wherever it is run."""

    def __init__(self, module: nn.Module, numerics: Numerics) -> None:
        super().__init__()
        self.module = module
        self._numerics = numerics

    def forward(self, x: Tensor) -> Tensor:
        with self._numerics.autocast(x.device):
            y: Tensor = self.module(x)
        return y


class LossBelow(nn.Module):
    """Passes its input on; backward, the gradients of a head's loss of it come on top of what
    comes from above.

    With `is_deferred` the head does not keep back what is sent above, as a block's own doesn't;
    but its forward is then part of the backward, which can't be split into inputs and weights.
    """

    def __init__(self, head: nn.Module, loss: Loss, *, is_deferred: bool) -> None:
        super().__init__()
        self.head = head
        self._loss = loss
        self._is_deferred = is_deferred

    def forward(self, x: Tensor) -> Tensor:
        passed: Tensor = (
            _DeferredLoss.apply(x, self.loss_of)
            if self._is_deferred
            else _AddLoss.apply(x, self.loss_of(x))
        )
        return passed

    def loss_of(self, x: Tensor) -> Tensor:
        """The head's loss, in float32."""
        return self._loss(self.head(x).float())


class _AddLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        del ctx, loss
        return x.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        del ctx
        return gradient, torch.ones(())  # as if it were in the sum of losses


class _DeferredLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss_of: Loss) -> Tensor:
        ctx.save_for_backward(x)
        ctx.loss_of = loss_of
        return x.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            ctx.loss_of(x).backward()
        return gradient + x.grad, None
