"""The slept blocks' work, in the stages that a lock-step schedule cuts it into.

Owns how a block's seconds are split: evenly over its microbatches, and over the two stages that
zero-bubble schedules make of a block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.lock_step.schedule import Placement, make_pipeline_stage
from benchmarks.lock_step.slept_stage import SleptStage
from runtime.testing.sleeper import Sleeper
from runtime.testing.slept import SleptConfig

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class SleptWork:
    """What slept blocks sleep (benchmarks.lock_step.schedule.Work)."""

    config: SleptConfig

    @property
    def num_ranks(self) -> int:
        return self.config.workers

    @property
    def steps(self) -> int:
        return self.config.steps

    def part(self, rank: int, placement: Placement) -> "SleptPart":
        return SleptPart(self.config, rank, placement)


class SleptPart:
    """One rank's slept stages (benchmarks.lock_step.schedule.Part)."""

    loss = None

    def __init__(self, config: SleptConfig, rank: int, placement: Placement) -> None:
        self._config = config
        self._num_stages = len(placement.ranks)
        self._microbatches = placement.microbatches
        stages = [index for index, of in enumerate(placement.ranks) if of == rank]
        self._sleeper = Sleeper()
        self._modules = [self._make_module(index) for index in stages]
        self.stages = [
            make_pipeline_stage(
                module,
                index,
                self._num_stages,
                takes=torch.empty_like(module.gradient),
                gives=torch.empty_like(module.output),
            )
            for module, index in zip(self._modules, stages, strict=True)
        ]

    def _make_module(self, index: int) -> SleptStage:
        """Make stage `index`: an equal part of the block that it is cut from, on any rank."""
        config, m = self._config, self._microbatches
        parts = self._num_stages // config.workers
        duration_s = config.make_duration_s()
        edge_numel = config.activation_bytes // FLOAT_BYTES // m
        is_first, is_last = index == 0, index == self._num_stages - 1
        return SleptStage(
            lambda batch: duration_s(index // parts, batch) / parts / m,
            forward_share=config.forward_share,
            input_numel=1 if is_first else edge_numel,
            output_numel=1 if is_last else edge_numel,
            is_first=is_first,
            sleeper=self._sleeper,
        )

    @property
    def slept_s(self) -> float:
        return self._sleeper.asked_s

    def begin(self, batch: int) -> tuple[list[Tensor], Tensor | None]:
        for module in self._modules:
            module.batch = batch
        blank = torch.zeros(self._microbatches, 1)
        inputs = [blank] if self.stages[0].is_first else []
        return inputs, blank if any(stage.is_last for stage in self.stages) else None

    def loss_of(self, output: Tensor, target: Tensor) -> Tensor:
        del target
        return output.sum()

    def end(self) -> None:
        """Nothing is learned."""
