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
from launch.planning.stopwatch import REPEATS, wait_for, with_threads
from launch.planning.workload import Workload
from models.heads import DEFAULT_HEAD, HeadSpec, load_head
from models.numerics import Numerics
from models.optimizers import load_optimizer, step_optimizer
from models.plugins import users_code
from models.ties import RULES

Shape = tuple[int, ...]


def measured_costs(workload: Workload, *, device: str, threads: int) -> Costs:
    """Time every unit and head alone: forward, backward and optimizer, on 2B random samples."""
    with with_threads(threads):
        return _measure(workload, torch.device(device))


def _measure(workload: Workload, device: torch.device) -> Costs:
    config, traces = workload.config, workload.traces
    of_heads = replace(workload.numerics, recompute=False)
    inputs: list[tuple[Shape, str]] = [(workload.image_shape, "float32")]
    inputs += [(trace.output_shape, trace.output_dtype) for trace in traces]

    def timed(
        module: nn.Module, shape: Shape, dtype: str, numerics: Numerics, *, needs_gradient: bool
    ) -> Cost:
        x_NCHW = torch.rand(workload.num_samples, *shape).to(device, getattr(torch, dtype))
        x_NCHW = numerics.laid_out(x_NCHW)
        if needs_gradient and x_NCHW.is_floating_point():
            x_NCHW = x_NCHW.requires_grad_()
        return _time(module.to(device), x_NCHW, config.optimizer, numerics)

    def of_unit(index: int, *, is_trained: bool = True) -> Cost:
        unit = workload.network.build_unit(index, seed=config.seed)
        if not is_trained:
            unit.requires_grad_(False)
        with users_code(workload.network.label(index), " as it was timed"):
            return timed(unit, *inputs[index], workload.numerics, needs_gradient=index > 0)

    units = tuple(of_unit(index) for index in range(len(traces)))
    guests = units
    if not RULES[config.tie].trains_guest:
        guests = tuple(of_unit(index, is_trained=False) for index in range(len(traces)))
    known: dict[HeadSpec, Cost] = {}

    def of_head(spec: HeadSpec) -> Cost:
        if spec.name == DEFAULT_HEAD:
            spec = replace(spec, block_index=0)  # ours is the same for each
        if spec not in known:
            head = load_head(spec)
            known[spec] = timed(head, spec.in_shape, "float32", of_heads, needs_gradient=True)
        return known[spec]

    heads = tuple(
        tuple(of_head(workload.head(top, k)) for k in range(workload.workers))
        for top in range(len(traces))
    )
    return Costs(measured=True, units=units, guests=guests, heads=heads)


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
