"""A network's work for lock-step schedules: the main job's blocks, trained end to end.

Owns how blocks become stages. With `heads="blocks"` each block keeps the head and the loss that it
has in Greedy InfoMax, so that a batch is the same work as there; that loss is added where its
block ends, and its gradient goes down with the one from above. With `heads="top"` there is the
last one alone. A loss is of a microbatch: a contrastive one can't be split, so what is learned is
not the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.lock_step_rank import make_pipeline_stage
from launch.assembly import LocalLearningJob, make_feed
from launch.config import parse
from launch.environment import Environment
from launch.resolve import resolve
from models.heads import build_head
from models.objectives import load_objective
from models.optimizers import load_optimizer, step_optimizer

Heads = Literal["blocks", "top"]
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class RealWork:
    """What the main job computes with these flags (benchmarks.lock_step_rank.Work)."""

    num_ranks: int
    steps: int
    heads: Heads
    flags: tuple[str, ...] = ()

    def part(self, stages: Sequence[int], *, num_stages: int, microbatches: int) -> "RealPart":
        flags = [*self.flags, "--workers", str(self.num_ranks), "--steps", str(self.steps)]
        environment = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
        config = parse([*flags, "--device", "cpu", "--threads", "1"], prog="lock-step")
        job = LocalLearningJob(resolve(config, environment=environment))
        return RealPart(job, stages, num_stages, heads=self.heads, microbatches=microbatches)


class RealPart:
    """One rank's stages, its share of the data and its optimizer (benchmarks.lock_step_rank.Part).

    The lowest stage's rank draws the same views of the same images as worker 0 of the main job.
    """

    slept_s = 0.0

    def __init__(
        self,
        job: LocalLearningJob,
        stages: Sequence[int],
        num_stages: int,
        *,
        heads: Heads,
        microbatches: int,
    ) -> None:
        resolved, config = job.resolved, job.resolved.config
        self._microbatches = microbatches
        self._num_samples = 2 * config.batch_size
        self._objective = load_objective(
            config.objective, temperature=config.temperature, num_classes=resolved.num_classes
        )
        self._feed = make_feed(resolved, job.data)
        cut = stage_units(job, num_stages)
        modules = [make_stage(job, cut[index], heads, self.loss_of) for index in stages]
        shapes = [tuple(job.data.train_images.shape[1:])]
        shapes += [resolved.traces[units[-1]].output_shape for units in cut[:-1]]
        shapes.append((resolved.setting.head_features,))
        size = self._num_samples // microbatches
        self.stages = [
            make_pipeline_stage(
                module,
                index,
                num_stages,
                takes=torch.empty(size, *shapes[index]),
                gives=torch.empty(size, *shapes[index + 1]),
            )
            for module, index in zip(modules, stages, strict=True)
        ]
        self._optimizer = load_optimizer(
            config.optimizer,
            [p for module in modules for p in module.parameters()],
            lr=config.lr,
            weight_decay=config.weight_decay,
        )

    def begin(self, batch: int) -> tuple[list[Tensor], Tensor | None]:
        inputs = []
        if self.stages[0].is_first:
            views_NCHW, _ = self._feed(batch)
            inputs = [by_microbatch(views_NCHW, self._microbatches)]
        has_last = any(stage.is_last for stage in self.stages)
        return inputs, torch.zeros(self._num_samples) if has_last else None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        del target
        return self.loss_of(output)

    def loss_of(self, projections_ND: Tensor) -> Tensor:
        """The objective of one microbatch, both views of its images, without labels."""
        return self._objective(projections_ND, torch.full((len(projections_ND) // 2,), -1))

    def end(self) -> None:
        step_optimizer(self._optimizer)
        self._optimizer.zero_grad()


def by_microbatch(views_NCHW: Tensor, microbatches: int) -> Tensor:
    """Order two stacked views so that each of equal chunks has both views of its images."""
    first, second = (view.chunk(microbatches) for view in views_NCHW.chunk(2))
    return torch.cat([part for pair in zip(first, second, strict=True) for part in pair])


def stage_units(job: LocalLearningJob, num_stages: int) -> list[range]:
    """Each stage's units: a block's home, or with two stages a block its halves, by FLOPs.

    Raises ValueError where a home is to be halved and has one unit only.
    """
    homes = [block.home for block in job.resolved.partition.blocks]
    if num_stages == len(homes):
        return homes
    flops = [load.flops for load in job.resolved.setting.loads]
    return [half for home in homes for half in _halves(home, flops)]


def _halves(home: range, flops: Sequence[int]) -> tuple[range, range]:
    if len(home) < 2:
        raise ValueError(f"unit {home[0]} is a block's only one, and can't be two stages")

    def largest(at: int) -> int:
        return max(sum(flops[home.start : at]), sum(flops[at : home.stop]))

    at = min(home[1:], key=largest)
    return range(home.start, at), range(at, home.stop)


class Stage(nn.Module):
    """Units in a row; a head above them, if there is one, gives the output or, inside the network,
    a loss that is added to the one above."""

    def __init__(self, units: nn.Sequential, head: nn.Module | None, added: Loss | None) -> None:
        super().__init__()
        self.units = units
        self.head = head
        self._added = added

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW: Tensor = self.units(x_NCHW)
        if self.head is None:
            return y_NCHW
        if self._added is None:
            projections_ND: Tensor = self.head(y_NCHW)
            return projections_ND
        with_loss_NCHW: Tensor = _AddLoss.apply(y_NCHW, self._added(self.head(y_NCHW)))
        return with_loss_NCHW


class _AddLoss(torch.autograd.Function):
    """Gives its input on; backward, the loss gets a gradient of 1 as if it were in the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        del ctx, loss
        return x.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        del ctx
        return gradient, torch.ones(())


def make_stage(job: LocalLearningJob, units: range, heads: Heads, loss: Loss) -> Stage:
    """Build a stage; where a block ends, with the head that is asked for there."""
    resolved, config = job.resolved, job.resolved.config
    built = nn.Sequential(*(resolved.network.build_unit(unit, seed=config.seed) for unit in units))
    ends = [block.home[-1] for block in resolved.partition.blocks]
    is_top = units[-1] == ends[-1]
    if not (is_top or (heads == "blocks" and units[-1] in ends)):
        return Stage(built, None, None)
    head = build_head(
        in_shape=resolved.traces[units[-1]].output_shape,
        out_features=resolved.setting.head_features,
        depth=config.decoder_depth[ends.index(units[-1])],
    )
    return Stage(built, head, None if is_top else loss)
