"""How long units and heads take on this machine, measured for as short a time as will do.

Owns the stopwatch of `--cuts profiled`. What it finds differs from run to run, so the cuts that
follow from it are written into the run's config.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from launch.planning.costs import Cost, Costs
from launch.planning.workload import Workload
from models.heads import build_head
from models.optimizers import load_optimizer, step_optimizer
from models.plugins import users_code

REPEATS = 3  # after one to warm up; the median counts

Shape = tuple[int, ...]


def measured_costs(workload: Workload, *, device: str, threads: int) -> Costs:
    """Time every unit and head alone: forward, backward and optimizer, on 2B random samples."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measure(workload, torch.device(device))
    finally:
        torch.set_num_threads(before)


def _measure(workload: Workload, device: torch.device) -> Costs:
    config, traces = workload.config, workload.traces
    inputs: list[tuple[Shape, str]] = [(workload.image_shape, "float32")]
    inputs += [(trace.output_shape, trace.output_dtype) for trace in traces]

    def timed(module: nn.Module, shape: Shape, dtype: str, *, needs_gradient: bool) -> Cost:
        x_NCHW = torch.rand(workload.num_samples, *shape).to(device, getattr(torch, dtype))
        if needs_gradient and x_NCHW.is_floating_point():
            x_NCHW = x_NCHW.requires_grad_()
        return _time(module.to(device), x_NCHW, config.optimizer)

    units = []
    for index in range(len(traces)):
        unit = workload.network.build_unit(index, seed=config.seed)
        with users_code(workload.network.label(index), " as it was timed"):
            units.append(timed(unit, *inputs[index], needs_gradient=index > 0))
    known: dict[tuple[Shape, int], Cost] = {}
    depths = [config.depth_of(k) for k in range(workload.workers)]
    for trace in traces:
        for depth in depths:
            key = (trace.output_shape, depth)
            if key not in known:
                head = build_head(in_shape=key[0], depth=depth, out_features=workload.head_features)
                known[key] = timed(head, key[0], "float32", needs_gradient=True)
    heads = tuple(tuple(known[trace.output_shape, depth] for depth in depths) for trace in traces)
    return Costs(measured=True, units=tuple(units), heads=heads)


def _time(module: nn.Module, x_NCHW: Tensor, optimizer_name: str) -> Cost:
    """Median seconds of a forward, and of a forward, a backward and an optimizer step."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = None
    if parameters:
        optimizer = load_optimizer(optimizer_name, parameters, lr=1e-9, weight_decay=0.0)
    synchronize: Callable[[], None] = torch.cuda.synchronize if x_NCHW.is_cuda else _nothing
    forwards, steps = [], []
    for _ in range(1 + REPEATS):
        for leaf in (x_NCHW, *parameters):
            leaf.grad = None  # zero_grad would import torch's compiler
        given_NCHW = x_NCHW.clone()  # a unit may work in place on its input
        synchronize()
        began_s = time.perf_counter()
        y_NCHW = module(given_NCHW)
        synchronize()
        forwards.append(time.perf_counter() - began_s)
        if y_NCHW.requires_grad:
            y_NCHW.backward(torch.ones_like(y_NCHW))
        if optimizer is not None:
            step_optimizer(optimizer)
        synchronize()
        steps.append(time.perf_counter() - began_s)
    return Cost(statistics.median(forwards[1:]), statistics.median(steps[1:]))


def _nothing() -> None:
    """A CPU is done when it returns."""
