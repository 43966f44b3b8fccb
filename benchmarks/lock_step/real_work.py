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

from benchmarks.lock_step.schedule import Placement, make_pipeline_stage
from benchmarks.lock_step.stage_pieces import Heads, OnWire, build_stage, cut_row, pieces
from launch.config_file import parse
from launch.environment import Environment
from launch.planning.resolved import Resolved
from launch.resolve import dump, resolve, restore
from launch.run_data import load_run_data
from launch.source import make_source
from models.objectives import load_objective
from models.optimizers import load_optimizer, step_optimizer


@dataclass(frozen=True, kw_only=True)
class RealWork:
    """What a resolved main job computes, as text (benchmarks.lock_step.schedule.Work)."""

    num_ranks: int
    steps: int
    heads: Heads
    resolved: str

    def part(self, rank: int, placement: Placement) -> "RealPart":
        return RealPart(restore(self.resolved), rank, placement, heads=self.heads)


def real_work(flags: Sequence[str], *, workers: int, steps: int, heads: Heads) -> RealWork:
    """The work of the main job with these flags. Raises ConfigError."""
    environment = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
    given = [*flags, "--workers", str(workers), "--steps", str(steps), "--device", "cpu"]
    resolved = resolve(parse(given, prog="lock-step"), environment=environment)
    return RealWork(num_ranks=workers, steps=steps, heads=heads, resolved=dump(resolved))


class RealPart:
    """One rank's stages and their optimizer (benchmarks.lock_step.schedule.Part).

    The lowest stage's rank draws the same views of the same images as worker 0 of the main job.
    """

    slept_s = 0.0

    def __init__(
        self, resolved: Resolved, rank: int, placement: Placement, *, heads: Heads
    ) -> None:
        config = resolved.config
        self.stages: list[PipelineStage] = []
        self._microbatches = placement.microbatches
        self._num_samples = 2 * config.batch_size
        self._losses: list[Tensor] = []
        self._objective = load_objective(
            config.objective, temperature=config.temperature, num_classes=resolved.num_classes
        )
        self._source = None
        if placement.ranks[0] == rank:
            self._source = make_source(config, load_run_data(config), device="cpu")
        self._make_stages(resolved, rank, placement, heads)
        self._optimizer = load_optimizer(
            config.optimizer,
            [p for stage in self.stages for p in stage.submod.parameters()],
            lr=config.lr,
            weight_decay=config.weight_decay,
        )

    def _make_stages(
        self, resolved: Resolved, rank: int, placement: Placement, heads: Heads
    ) -> None:
        row = pieces(resolved, heads)
        cut = cut_row([piece.cost for piece in row], placement.ranks)
        size, numerics = self._num_samples // placement.microbatches, resolved.numerics
        crossing = [torch.empty(size, *resolved.image_shape)]
        for own in cut:
            shape, dtype = row[own[-1]].output_shape, getattr(torch, row[own[-1]].output_dtype)
            crossing.append(torch.empty(size, *numerics.wire_shape(shape), dtype=dtype))
        for index, own in enumerate(cut):
            if placement.ranks[index] != rank:
                continue
            module = OnWire(
                build_stage(
                    resolved,
                    [row[i] for i in own],
                    self._loss_of,
                    defers_heads=not placement.splits_backward,
                ),
                numerics,
                is_first=index == 0,
                is_last=index == len(cut) - 1,
            )
            takes, gives = crossing[index : index + 2]
            stage = make_pipeline_stage(module, index, len(cut), takes=takes, gives=gives)
            self.stages.append(stage)

    @property
    def loss(self) -> float | None:
        """The top's, of the last batch."""
        return float(torch.stack(self._losses).mean()) if self._losses else None

    def begin(self, batch: int) -> tuple[list[Tensor], Tensor | None]:
        self._losses.clear()
        inputs = []
        if self._source is not None:
            views_NCHW, _ = self._source(batch)
            inputs = [by_microbatch(views_NCHW, self._microbatches)]
        has_last = any(stage.is_last for stage in self.stages)
        return inputs, torch.zeros(self._num_samples) if has_last else None

    def loss_of(self, output: Tensor, target: Tensor) -> Tensor:
        del target
        loss = self._loss_of(output.float())
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
