"""Data parallelism as a lock-step case: torch's DistributedDataParallel, end to end.

Owns what a rank computes. Each has the whole network and an equal part of the images; the loss is
of the whole batch, for every rank is given the projections of all. BatchNorm's statistics are each
rank's own, as they are in DistributedDataParallel.

Shapes: B images of one rank, N = 2B (both views stacked), D features.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.end_to_end import EndToEnd, RunAdamW, loss_of
from benchmarks.lock_step.rank import RankTiming
from launch.planning.resolved import Resolved
from launch.resolve import restore
from launch.run_data import load_run_data
from launch.source import make_source
from models.block import Source


@dataclass(frozen=True, kw_only=True)
class DataParallelCase:
    """`--method e2e`, resolved and as text, on so many ranks (benchmarks.lock_step.rank)."""

    num_ranks: int
    steps: int
    resolved: str

    @property
    def name(self) -> str:
        return f"DistributedDataParallel on {self.num_ranks} ranks"

    def time(self, rank: int) -> RankTiming:
        run = restore(self.resolved)
        source = shard_source(run, rank, self.num_ranks)
        model = EndToEnd(run)
        parallel, optimizer = DistributedDataParallel(model), RunAdamW(run, model)
        ends_s, loss = [], torch.zeros(())
        for step in range(self.steps):
            views_NCHW, _ = source(step)
            optimizer.zero_grad()
            loss = loss_of(run, gather(parallel(views_NCHW), rank, self.num_ranks))
            # The gradient of the rank's own projections; torch divides by the number of ranks.
            (loss * self.num_ranks).backward()
            optimizer.step(step)
            ends_s.append(time.perf_counter())
        return RankTiming.of_batches(ends_s, loss=float(loss.detach()))


def shard_source(run: Resolved, rank: int, num_ranks: int) -> Source:
    """A rank's batches: of every so many-th image, and so many-th of the batch size."""
    config, data = run.config, load_run_data(run.config)
    own = replace(
        data,
        train_images=data.train_images[rank::num_ranks],
        train_labels=data.train_labels[rank::num_ranks],
    )
    size = config.batch_size // num_ranks
    return make_source(replace(config, batch_size=size), own, device="cpu")


def gather(own_ND: Tensor, rank: int, num_ranks: int) -> Tensor:
    """All ranks' projections, all first views before all second ones; of the others' no gradient
    is taken."""
    parts = [torch.empty_like(own_ND) for _ in range(num_ranks)]
    dist.all_gather(parts, own_ND.detach())
    parts[rank] = own_ND
    return both_views(parts)


def both_views(parts_ND: Sequence[Tensor]) -> Tensor:
    """Join ranks' projections, the first views of all before the second ones."""
    halves = zip(*(part.chunk(2) for part in parts_ND), strict=True)
    return torch.cat([view for half in halves for view in half])
