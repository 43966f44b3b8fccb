"""One stage of a lock-step pipeline that really learns, for the memory that it takes.

Owns a rank of torch.distributed.pipelining's GPipe on the main job's homes, with the head of the
top block on the last. The loss of a microbatch stands for the loss of the batch, which can't be
split: the memory is the same, the learning is not.
"""

import os
import resource
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

from launch.assembly import LocalLearningJob
from launch.config import parse
from launch.environment import Environment
from launch.resolve import resolve
from models.heads import build_head
from models.objectives import load_objective
from runtime.lifetime import die_with_parent

GLOO_TIMEOUT_S = 60.0


def run_stage(
    rank: int, flags: tuple[str, ...], microbatches: int, store_path: str, results: Connection
) -> None:
    """Train the batches that `flags` of the main job ask for; send this process's peak resident
    bytes, or the traceback that ended it."""
    die_with_parent()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        environment = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
        job = LocalLearningJob(resolve(parse(list(flags), prog="memory"), environment=environment))
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(store_path, job.num_workers),
            rank=rank,
            world_size=job.num_workers,
            timeout=timedelta(seconds=GLOO_TIMEOUT_S),
        )
        _train(job, rank, microbatches)
        results.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        dist.barrier()
        dist.destroy_process_group()
    except Exception:
        results.send(traceback.format_exc())
        raise


def _train(job: LocalLearningJob, rank: int, microbatches: int) -> None:
    resolved, config = job.resolved, job.resolved.config
    module = make_stage(job, rank)
    num_samples = 2 * config.batch_size  # two views of each image
    size = num_samples // microbatches
    shapes = [tuple(job.data.train_images.shape[1:])]
    shapes += [resolved.traces[block.home[-1]].output_shape for block in resolved.partition.blocks]
    takes = torch.empty(size, *shapes[rank], requires_grad=rank > 0)
    with torch.no_grad():
        gives = module(takes[:2])  # two samples are enough for batch norm's statistics
    stage = PipelineStage(
        module,
        rank,
        job.num_workers,
        torch.device("cpu"),
        input_args=(takes,),
        output_args=(torch.empty(size, *gives.shape[1:], requires_grad=True),),
    )
    objective = load_objective(
        config.objective, temperature=config.temperature, num_classes=resolved.num_classes
    )

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return objective(output, labels[: len(labels) // 2])

    schedule: Any = ScheduleGPipe(stage, microbatches, loss_fn=loss)
    optimizer = torch.optim.AdamW(module.parameters())
    inputs = [torch.rand(num_samples, *shapes[0])] if stage.is_first else []
    target = torch.zeros(num_samples, dtype=torch.int64) if stage.is_last else None
    for _ in range(job.num_steps):
        schedule.step(*inputs, target=target)
        optimizer.step()
        optimizer.zero_grad()


def make_stage(job: LocalLearningJob, rank: int) -> nn.Module:
    """A block's home, and on the last the head of its block."""
    resolved, config = job.resolved, job.resolved.config
    home = resolved.partition.blocks[rank].home
    layers = [resolved.network.build_unit(unit, seed=config.seed) for unit in home]
    if rank == job.num_workers - 1:
        in_shape = resolved.traces[home[-1]].output_shape
        layers.append(build_head(in_shape=in_shape, depth=config.decoder_depth[-1]))
    return nn.Sequential(*layers)
