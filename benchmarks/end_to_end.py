"""End-to-end training as anyone would write it in torch: what several benchmarks compare with.

Owns the plain network, its head and optimizer, with the weights that a run of `--method e2e` begins
with. Knows nothing of blocks, processes or what is measured.

Shapes: B images, N = 2B (both views stacked), C channels, H height, W width, D features.
"""

from typing import Any

import torch
from torch import Tensor, nn

from launch.planning.resolved import Resolved
from models import randomness
from models.heads import load_head
from models.network import build_plain
from models.optimizers import learning_rate


class EndToEnd(nn.Module):
    """A resolved run's network with the top's head: views (N, C, H, W) to projections (N, D)."""

    def __init__(self, run: Resolved) -> None:
        super().__init__()
        config, top = run.config, len(run.network.units) - 1
        self.network = build_plain(run.network, seed=config.seed)
        spec = run.head(top, run.partition.num_blocks - 1)  # before its weights' draw is seeded
        randomness.seed_torch(config.seed, "head", unit=run.network.units[top].name)
        self.head = load_head(spec)
        self._numerics = run.numerics

    def forward(self, views_NCHW: Tensor) -> Tensor:
        """In the run's precision and layout; projections are in float32."""
        with self._numerics.autocast(views_NCHW.device):
            projections: Tensor = self.head(self.network(self._numerics.laid_out(views_NCHW)))
        return projections.float()


class RunAdamW:
    """AdamW with the run's rates."""

    def __init__(self, run: Resolved, model: nn.Module) -> None:
        self._config = config = run.config
        assert config.optimizer == "adamw", config.optimizer
        parameters = list(model.parameters())
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=config.lr)
        self.zero_grad = self._adamw.zero_grad

    def step(self, step: int) -> None:
        """Take one step. torch's own cosine is computed from the rate before, and rounds
        otherwise."""
        config = self._config
        rate = learning_rate(
            step,
            config.steps,
            base=config.lr,
            warmup_steps=config.warmup_steps,
            schedule=config.schedule,
        )
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()


def loss_of(run: Resolved, projections_ND: Tensor) -> Tensor:
    """The run's objective, without labels."""
    unlabelled_B = torch.full((len(projections_ND) // 2,), -1, device=projections_ND.device)
    loss: Tensor = run.objective(projections_ND, unlabelled_B)
    return loss
