"""A network's work for lock-step schedules: the main job's blocks, trained end to end.

Owns what a rank computes. With `heads="blocks"` each block keeps the head and the loss that it has
in Greedy InfoMax, so that a batch is the same work as there. With `heads="top"` there is the last
one alone, which is what end-to-end training takes, and less work. A loss is of a microbatch: a
contrastive one can't be split, so what is learned is not the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from benchmarks.lock_step.rank import Layout, make_pipeline_stage
from benchmarks.lock_step.stage_pieces import Heads, build_stage, cut_row, pieces
from launch.config_file import parse
from launch.environment import Environment
from launch.job import make_feed
from launch.planning.resolved import Resolved
from launch.resolve import dump, resolve, restore
from models.data import load_data
from models.objectives import load_objective
from models.optimizers import load_optimizer, step_optimizer


@dataclass(frozen=True, kw_only=True)
class RealWork:
    """What a resolved main job computes, as text (benchmarks.lock_step.rank.Work)."""

    num_ranks: int
    steps: int
    heads: Heads
    resolved: str

    def part(self, rank: int, layout: Layout) -> "RealPart":
        return RealPart(restore(self.resolved), rank, layout, heads=self.heads)


def real_work(flags: Sequence[str], *, workers: int, steps: int, heads: Heads) -> RealWork:
    """The work of the main job with these flags. Raises ConfigError."""
    environment = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
    given = [*flags, "--workers", str(workers), "--steps", str(steps), "--device", "cpu"]
    resolved = resolve(parse(given, prog="lock-step"), environment=environment)
    return RealWork(num_ranks=workers, steps=steps, heads=heads, resolved=dump(resolved))


class RealPart:
    """One rank's stages and their optimizer (benchmarks.lock_step.rank.Part).

    The lowest stage's rank draws the same views of the same images as worker 0 of the main job.
    """

    slept_s = 0.0

    def __init__(self, resolved: Resolved, rank: int, layout: Layout, *, heads: Heads) -> None:
        config = resolved.config
        self.stages: list[PipelineStage] = []
        self._microbatches = layout.microbatches
        self._num_samples = 2 * config.batch_size
        self._losses: list[Tensor] = []
        self._objective = load_objective(
            config.objective, temperature=config.temperature, num_classes=resolved.num_classes
        )
        self._feed = None
        if layout.ranks[0] == rank:
            data = load_data(config.data, seed=config.seed, split=config.split)
            self._feed = make_feed(resolved, data)
        self._make_stages(resolved, rank, layout, heads)
        self._optimizer = load_optimizer(
            config.optimizer,
            [p for stage in self.stages for p in stage.submod.parameters()],
            lr=config.lr,
            weight_decay=config.weight_decay,
        )

    def _make_stages(self, resolved: Resolved, rank: int, layout: Layout, heads: Heads) -> None:
        row = pieces(resolved, heads)
        cut = cut_row([piece.flops for piece in row], layout.ranks)
        shapes = [resolved.image_shape, *(row[own[-1]].output_shape for own in cut)]
        size = self._num_samples // layout.microbatches
        for index, own in enumerate(cut):
            if layout.ranks[index] != rank:
                continue
            module = build_stage(
                resolved,
                [row[i] for i in own],
                self._loss_of,
                defers_heads=not layout.splits_backward,
            )
            takes, gives = (torch.empty(size, *shape) for shape in shapes[index : index + 2])
            stage = make_pipeline_stage(module, index, len(cut), takes=takes, gives=gives)
            self.stages.append(stage)

    @property
    def loss(self) -> float | None:
        """The top's, of the last batch."""
        return float(torch.stack(self._losses).mean()) if self._losses else None

    def begin(self, batch: int) -> tuple[list[Tensor], Tensor | None]:
        self._losses.clear()
        inputs = []
        if self._feed is not None:
            views_NCHW, _ = self._feed(batch)
            inputs = [by_microbatch(views_NCHW, self._microbatches)]
        has_last = any(stage.is_last for stage in self.stages)
        return inputs, torch.zeros(self._num_samples) if has_last else None

    def loss_of(self, output: Tensor, target: Tensor) -> Tensor:
        del target
        loss = self._loss_of(output)
        self._losses.append(loss.detach())
        return loss

    def _loss_of(self, projections_ND: Tensor) -> Tensor:
        """The objective of one microbatch, both views of its images, without labels."""
        return self._objective(projections_ND, torch.full((len(projections_ND) // 2,), -1))

    def end(self) -> None:
        step_optimizer(self._optimizer)
        self._optimizer.zero_grad()


def by_microbatch(views_NCHW: Tensor, microbatches: int) -> Tensor:
    """Order two stacked views so that each of equal chunks has both views of its images."""
    first, second = (view.chunk(microbatches) for view in views_NCHW.chunk(2))
    return torch.cat([part for pair in zip(first, second, strict=True) for part in pair])
