"""How long units and heads take on this machine, for `--cuts profiled`.

What it finds differs from run to run, so the cuts that follow from it are written into the run's
config.
"""

import statistics
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from launch.planning.costs import Cost, Costs
from launch.planning.partition import Block
from launch.planning.stopwatch import REPEATS, wait_for, with_threads
from launch.planning.workload import Workload
from models.heads import OURS, HeadSpec, load_head
from models.numerics import Numerics
from models.optimizers import load_optimizer, step_optimizer
from models.plugins import users_code
from models.ties import RULES

Shape = tuple[int, ...]


def measured_costs(workload: Workload, *, device: str, threads: int) -> Costs:
    """Time every unit and head alone: forward, backward and optimizer, on 2B random samples."""
    with with_threads(threads):
        times = _Times(workload, torch.device(device))
        tops = range(len(workload.traces))
        units = tuple(times.unit(index) for index in tops)
        guests = units
        if not times.trains_guest:
            guests = tuple(times.unit(index, is_trained=False) for index in tops)
        heads = tuple(tuple(times.head(top, k) for k in range(workload.workers)) for top in tops)
        return Costs(measured=True, units=units, guests=guests, heads=heads)


def measured_step(workload: Workload, block: Block, *, device: str, threads: int) -> float:
    """Time the units and the head of one block, likewise; seconds of a step without its source."""
    with with_threads(threads):
        times = _Times(workload, torch.device(device))
        parts = [times.unit(index) for index in block.home]
        parts += [times.unit(index, is_trained=times.trains_guest) for index in block.guest]
        parts.append(times.head((*block.home, *block.guest)[-1], block.index))
        return sum(part.step for part in parts)


class _Times:
    """Times units and heads of a workload, each alone."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self.trains_guest = RULES[workload.config.tie].trains_guest
        self._workload = workload
        self._device = device
        self._inputs: list[tuple[Shape, str]] = [(workload.image_shape, "float32")]
        self._inputs += [(trace.output_shape, trace.output_dtype) for trace in workload.traces]
        self._heads: dict[HeadSpec, Cost] = {}

    def unit(self, index: int, *, is_trained: bool = True) -> Cost:
        workload, (shape, dtype) = self._workload, self._inputs[index]
        unit = workload.network.build_unit(index, seed=workload.config.seed)
        if not is_trained:
            unit.requires_grad_(False)
        with users_code(workload.network.label(index), " as it was timed"):
            return self._timed(unit, shape, dtype, workload.numerics, needs_gradient=index > 0)

    def head(self, top: int, block_index: int) -> Cost:
        """The head of a block that stands on a unit; one of each kind is timed."""
        spec = self._workload.head(top, block_index)
        if spec.name in OURS:
            spec = replace(spec, block_index=0)  # ours is the same for each
        if spec not in self._heads:
            numerics = replace(self._workload.numerics, recompute=False)
            self._heads[spec] = self._timed(
                load_head(spec), spec.in_shape, "float32", numerics, needs_gradient=True
            )
        return self._heads[spec]

    def _timed(
        self,
        module: nn.Module,
        shape: Shape,
        dtype: str,
        numerics: Numerics,
        *,
        needs_gradient: bool,
    ) -> Cost:
        x_NCHW = torch.rand(self._workload.num_samples, *shape)
        x_NCHW = numerics.laid_out(x_NCHW.to(self._device, getattr(torch, dtype)))
        if needs_gradient and x_NCHW.is_floating_point():
            x_NCHW = x_NCHW.requires_grad_()
        optimizer_name = self._workload.config.optimizer
        return _time(module.to(self._device), x_NCHW, optimizer_name, numerics)


def _time(module: nn.Module, x_NCHW: Tensor, optimizer_name: str, numerics: Numerics) -> Cost:
    """Median seconds of a forward, and of a forward, a backward and an optimizer step."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = None
    if parameters:
        optimizer = load_optimizer(optimizer_name, parameters, lr=1e-9, weight_decay=0.0)
    forwards, steps = [], []
    for _ in range(1 + REPEATS):
        for leaf in (x_NCHW, *parameters):
            leaf.grad = None  # zero_grad would import torch's compiler
        given_NCHW = x_NCHW.clone()  # a unit may work in place on its input
        wait_for(x_NCHW)
        began_s = time.perf_counter()
        y_NCHW = numerics.run(module, given_NCHW, seed=_draws_as_it_does, writes_input=True)
        wait_for(x_NCHW)
        forwards.append(time.perf_counter() - began_s)
        given = y_NCHW if isinstance(y_NCHW, tuple) else (y_NCHW,)
        followed = [y for y in given if y.requires_grad]
        if followed:
            torch.autograd.backward(followed, [torch.ones_like(y) for y in followed])
        if optimizer is not None:
            step_optimizer(optimizer)
        wait_for(x_NCHW)
        steps.append(time.perf_counter() - began_s)
    return Cost(statistics.median(forwards[1:]), statistics.median(steps[1:]))


def _draws_as_it_does() -> None:
    """No generator is seeded: what a unit draws takes as long whatever it is."""
