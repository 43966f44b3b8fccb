"""What a resolved config becomes: blocks, what crosses each edge, and each worker's plan.

Joins models and runtime, and is the only place that knows both a network and a stream.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from launch.config import to_toml
from launch.resolve import ConcreteConfig, Resolved
from models.block import Feed, LocalBlock, Payload, Recipe
from models.data import ImageData, batch_indices, load_data
from models.determinism import make_cuda_deterministic
from models.evaluation import evaluate
from models.objectives import load_objective
from models.views import two_views
from runtime.core.plan import Stream, Window, WorkerPlan
from runtime.step import Specs, TensorSpec, message_bytes


class LocalLearningJob:
    """A resolved run, as the runtime's processes see it (runtime.job.Job)."""

    def __init__(self, resolved: Resolved) -> None:
        self.resolved = resolved
        config = resolved.config
        self.num_workers = resolved.partition.num_blocks
        self.num_steps = config.steps
        self.batch_size = config.batch_size
        self.threads = config.threads
        self.cores = len(os.sched_getaffinity(0))
        self.link: str = config.link
        self.bind = config.bind
        self.report_every_s = config.report_every_s
        self.model_name = config.model.rpartition(":")[2]
        self.notes = _notes(config)
        self.config_toml = to_toml(config)

    @cached_property
    def data(self) -> ImageData:
        """The data set; loaded where it is asked for."""
        config = self.resolved.config
        return load_data(config.data, seed=config.seed, split=config.split)

    def plan(self, k: int) -> WorkerPlan:
        return worker_plan(self.resolved, k)

    def specs(self, edge: int) -> Specs:
        return edge_specs(self.resolved, edge)

    def build_block(self, k: int) -> LocalBlock:
        if self.resolved.config.device == "cuda":
            make_cuda_deterministic()
        return build_block(self.resolved, k, self.data if k == 0 else None)

    def unit_names(self, k: int) -> tuple[list[str], list[str]]:
        units, block = self.resolved.network.units, self.resolved.partition.blocks[k]
        return [units[i].name for i in block.home], [units[i].name for i in block.guest]

    def evaluate(self, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        accuracies = evaluate(self.resolved.network, dict(weights), self.data)
        return [asdict(accuracy) for accuracy in accuracies]


def build_blocks(resolved: Resolved, data: ImageData) -> list[LocalBlock]:
    """Build every block, lowest first."""
    return [build_block(resolved, k, data) for k in range(resolved.partition.num_blocks)]


def build_block(resolved: Resolved, k: int, data: ImageData | None) -> LocalBlock:
    """Build block k; only block 0 needs the data."""
    config, partition = resolved.config, resolved.partition
    block = partition.blocks[k]
    traces = resolved.traces
    top = (*block.home, *block.guest)[-1]
    recipe = Recipe(
        tie=config.tie,
        alpha=config.alpha,
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        num_steps=config.steps,
        decoder_depth=config.decoder_depth[k],
        seed=config.seed,
        device=_device(config, k),
    )
    return LocalBlock(
        resolved.network,
        home=block.home,
        guest=block.guest,
        lent=partition.blocks[k - 1].guest if k else range(0),
        recipe=recipe,
        objective=load_objective(
            config.objective, temperature=config.temperature, num_classes=resolved.num_classes
        ),
        num_classes=resolved.num_classes,
        output_shape=traces[top].output_shape,
        home_shape=traces[block.home[-1]].output_shape,
        feed=make_feed(resolved, data) if data is not None and k == 0 else None,
    )


def _notes(config: ConcreteConfig) -> list[str]:
    gpus = torch.cuda.device_count() if config.device == "cuda" else 0
    if not gpus or gpus >= config.workers:
        return []
    return [
        f"{config.workers} workers share {gpus} GPU{'s' if gpus > 1 else ''} of this host and take"
        " turns on it: no speed-up is to be expected"
    ]


def _device(config: ConcreteConfig, k: int) -> str:
    """A GPU a worker, shared in turn where there are fewer."""
    if config.device == "cpu":
        return "cpu"
    return f"cuda:{k % torch.cuda.device_count()}"


def make_feed(resolved: Resolved, data: ImageData) -> Feed:
    """Batches by step: two views (2B, C, H, W) and labels (B,), a function of (seed, step)."""
    config = resolved.config

    def feed(step: int) -> Payload:
        chosen = batch_indices(len(data.train_labels), config.batch_size, step, seed=config.seed)
        images_BCHW = data.train_images[chosen]
        views_NCHW = two_views(images_BCHW, data.views, seed=config.seed, step=step)
        return views_NCHW, data.train_labels[chosen]

    return feed


def edge_specs(resolved: Resolved, edge: int) -> Specs:
    """What crosses the edge between blocks `edge` and `edge` + 1; a private guest sends no tie."""
    config, block = resolved.config, resolved.partition.blocks[edge]
    traces = resolved.traces
    batch = config.batch_size
    below = traces[block.home[-1]]
    activation = TensorSpec(shape=(2 * batch, *below.output_shape), dtype=below.output_dtype)
    specs: dict[Stream, tuple[TensorSpec, ...]] = {
        Stream.ACTIVATION: (activation, TensorSpec(shape=(batch,), dtype="int64"))
    }
    shared = sum(traces[unit].num_trainable for unit in block.guest)
    if shared and config.tie != "none":
        (dtype,) = frozenset().union(*(traces[unit].trainable_dtypes for unit in block.guest))
        flat = (TensorSpec(shape=(shared,), dtype=dtype),)
        specs |= {Stream.TIE_UP: flat, Stream.TIE_DOWN: flat}
    return specs


def worker_plan(resolved: Resolved, k: int) -> WorkerPlan:
    """Worker k's steps, streams and windows."""
    below = edge_specs(resolved, k - 1) if k > 0 else {}
    above = edge_specs(resolved, k) if k + 1 < resolved.partition.num_blocks else {}
    up = (Stream.ACTIVATION, Stream.TIE_UP)
    incoming = {s: specs for s, specs in below.items() if s in up}
    outgoing = {s: specs for s, specs in above.items() if s in up}
    if Stream.TIE_DOWN in above:
        incoming[Stream.TIE_DOWN] = above[Stream.TIE_DOWN]
    if Stream.TIE_DOWN in below:
        outgoing[Stream.TIE_DOWN] = below[Stream.TIE_DOWN]
    return WorkerPlan(
        num_steps=resolved.config.steps,
        lag=resolved.config.lag,
        incoming={s: _window(resolved, s, specs) for s, specs in incoming.items()},
        outgoing={s: _window(resolved, s, specs) for s, specs in outgoing.items()},
    )


def _window(resolved: Resolved, stream: Stream, specs: tuple[TensorSpec, ...]) -> Window:
    config = resolved.config
    sizes = {
        Stream.ACTIVATION: config.window,
        Stream.TIE_UP: config.window,
        Stream.TIE_DOWN: max(2, config.lag + 1),
    }
    size = message_bytes(specs)
    return Window(max_messages=sizes[stream], max_bytes=sizes[stream] * size, message_bytes=size)
