"""What each system's processes learn, in one process and one loop.

Owns the learners' steps, and the curve of kNN accuracy over steps. A system's processes learn what
its learner does here, and how fast they are is measured apart; so a curve takes no quiet machine.

Shapes: B images, N = 2B (both views stacked), C channels, H height, W width.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from benchmarks.alternatives.systems import Learner
from benchmarks.end_to_end import EndToEnd, RunAdamW, loss_of
from benchmarks.lock_step.data_parallel import both_views, shard_source
from benchmarks.lock_step.real_work import by_microbatch
from launch.job import build_blocks
from launch.planning.resolved import Resolved
from launch.source import make_source
from models.data import ImageData
from models.evaluation.protocol import EvaluationProtocol
from models.evaluation.unit_accuracy import evaluate
from models.sequential import train

Weights = dict[str, Tensor]
AfterStep = Callable[[int, Callable[[], Weights]], None]
KNN_ONLY = EvaluationProtocol(linear="none")


def learn(learner: Learner, run: Resolved, data: ImageData, after_step: AfterStep) -> None:
    """Train a run as a system's processes do."""
    if learner.shards > 1:
        learn_shards(run, after_step, num_ranks=learner.shards)
    elif learner.microbatches > 1:
        learn_microbatches(run, data, after_step, microbatches=learner.microbatches)
    else:
        learn_blocks(run, data, after_step)


def learn_blocks(run: Resolved, data: ImageData, after_step: AfterStep) -> None:
    """LoCo, Greedy InfoMax, or one block end to end: what the pipeline learns, bit for bit."""
    blocks, lag = build_blocks(run, data), run.config.lag
    assert lag is not None, "blocks that take turns have no free ties"

    def weights() -> Weights:
        return {name: value for block in blocks for name, value in block.home_state().items()}

    train(
        blocks,
        num_steps=run.config.steps,
        lag=lag,
        after_step=lambda step: after_step(step, weights),
    )


def learn_microbatches(
    run: Resolved, data: ImageData, after_step: AfterStep, *, microbatches: int
) -> None:
    """End to end as a lock-step schedule does it: losses and statistics are of microbatches."""
    source, model = make_source(run.config, data, device="cpu"), EndToEnd(run)
    optimizer = RunAdamW(run, model)
    for step in range(run.config.steps):
        views_NCHW, _ = source(step)
        optimizer.zero_grad()
        for part_NCHW in by_microbatch(views_NCHW, microbatches).chunk(microbatches):
            (loss_of(run, model(part_NCHW)) / microbatches).backward()
        optimizer.step(step)
        after_step(step, model.network.state_dict)


def learn_shards(run: Resolved, after_step: AfterStep, *, num_ranks: int) -> None:
    """End to end as DistributedDataParallel does it, with the loss of the whole batch: statistics
    are of each rank's images, and those of rank 0 are what remains."""
    sources = [shard_source(run, rank, num_ranks) for rank in range(num_ranks)]
    model = EndToEnd(run)
    replicas = [model, *(_replica(model) for _ in sources[1:])]
    optimizer = RunAdamW(run, model)
    for step in range(run.config.steps):
        optimizer.zero_grad()
        pairs = zip(replicas, sources, strict=True)
        parts = [replica(source(step)[0]) for replica, source in pairs]
        loss_of(run, both_views(parts)).backward()
        optimizer.step(step)
        after_step(step, model.network.state_dict)


def _replica(model: EndToEnd) -> EndToEnd:
    """The same parameters, with buffers of its own."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


class Curve:
    """Notes the kNN top-1 after the last unit every so many steps, on the first test images."""

    def __init__(self, run: Resolved, data: ImageData, *, every: int, test_images: int) -> None:
        self._run = run
        self._data = replace(
            data,
            test_images=data.test_images[:test_images],
            test_labels=data.test_labels[:test_images],
        )
        self._every = every
        self.points: list[tuple[int, float]] = []
        """Steps that were taken, and the top-1 then."""

    def after_step(self, step: int, weights: Callable[[], Weights]) -> None:
        """Measure, if it is time."""
        taken = step + 1
        if taken % self._every and taken != self._run.config.steps:
            return
        network = self._run.network
        last = [len(network.units) - 1]
        (unit,) = evaluate(network, weights(), self._data, units=last, protocol=KNN_ONLY)
        self.points.append((taken, unit.knn_top1))
