"""What crosses each edge of a resolved run, and each worker's plan: steps, windows, retention.

Owns how many messages are retained for workers that restart, and how often snapshots are taken,
under the bound on that memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from launch.planning.partition import Block, Partition
from launch.planning.workload import Workload
from models.network import UnitTrace
from models.pooling import num_features
from models.ties import RULES
from runtime.block import Specs, TensorSpec, message_bytes
from runtime.core.plan import Free, Stream, Window, WorkerPlan
from runtime.state.saving import PLACES

if TYPE_CHECKING:
    from launch.planning.resolved import Resolved

MOST_STEPS_BETWEEN_SNAPSHOTS = 4
OPTIMIZER_STATES = {
    "sgd": 1,
    "lars": 1,
    "adamw": 2,
}  # tensors that an optimizer has for each parameter
UNKNOWN_STATES = 2
USUAL_MB = 1024  # that a worker may retain if nothing is said
PROBE_ITEMSIZE = 4
MARGIN = 1.1  # over a block's parameters and their state: buffers, names
UPWARD = (Stream.ACTIVATION, Stream.TIE_UP)


def edge_specs(resolved: Resolved, edge: int) -> Specs:
    """What crosses the edge between blocks `edge` and `edge` + 1; a private guest sends no tie."""
    block = resolved.partition.blocks[edge]
    return _crossing(resolved, edge, block.home[-1], block.guest)


def _crossing(workload: Workload, edge: int, top: int, guest: range) -> Specs:
    """What crosses an edge above a home that ends with unit `top` and its block's guest.

    A tie is of one dtype: launch.resolve refuses a cut that shares several.
    """
    config, traces, wire = workload.config, workload.traces, workload.wire(edge, top)
    below = traces[top]
    activation = TensorSpec(
        shape=(workload.num_samples, *workload.numerics.wire_shape(below.output_shape)),
        dtype=_name(wire.activation_dtype(wire.activation)),
    )
    specs: dict[Stream, tuple[TensorSpec, ...]] = {
        Stream.ACTIVATION: (activation, TensorSpec(shape=(config.batch_size,), dtype="int64"))
    }
    shared = sum(traces[unit].num_trainable for unit in guest)
    rule = RULES[config.tie]
    if shared and (rule.sends_up or rule.sends_down):
        (dtype, *_) = sorted(frozenset().union(*(traces[unit].trainable_dtypes for unit in guest)))
        flat = (TensorSpec(shape=(shared,), dtype=_name(wire.tie_dtype(getattr(torch, dtype)))),)
        specs |= {Stream.TIE_UP: flat} if rule.sends_up else {}
        specs |= {Stream.TIE_DOWN: flat} if rule.sends_down else {}
    return specs


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def block_specs(workload: Workload, block: Block) -> tuple[Specs, Specs]:
    """What a block receives and what it sends, wherever the others are cut."""
    below: Specs = {}
    above: Specs = {}
    if block.home.start:
        below = _crossing(workload, block.index - 1, block.home.start - 1, block.lent)
    if block.home.stop < len(workload.traces):
        above = _crossing(workload, block.index, block.home[-1], block.guest)
    incoming = {s: below[s] for s in below if s in UPWARD}
    incoming |= {s: above[s] for s in above if s not in UPWARD}
    outgoing = {s: above[s] for s in above if s in UPWARD}
    outgoing |= {s: below[s] for s in below if s not in UPWARD}
    return incoming, outgoing


def worker_plan(resolved: Resolved, block_index: int) -> WorkerPlan:
    """A worker's steps, streams and windows."""
    config, blocks = resolved.config, resolved.partition.blocks
    block = blocks[block_index]
    incoming, outgoing = block_specs(resolved, block)

    def window(stream: Stream, specs: tuple[TensorSpec, ...], sender: Block) -> Window:
        return _window(resolved, stream, specs, _room(resolved, sender, stream))

    free = Free(max_staleness=config.longest_lag, keeps_newest=not RULES[config.tie].adds_gradients)
    return WorkerPlan(
        num_steps=config.steps,
        lag=config.lag or 0,
        free=free if config.free_ties else None,
        incoming={
            s: window(s, specs, blocks[block_index + (-1 if s in UPWARD else 1)])
            for s, specs in incoming.items()
        },
        outgoing={s: window(s, specs, block) for s, specs in outgoing.items()},
        snapshot_every=config.snapshot_every,
        checkpoint_every=config.checkpoint_every,
    )


def fits_bound(workload: Workload, block: Block, every: int) -> bool:
    """Whether all that a block sends in a number of steps can be retained within the bound."""
    return _most_bytes(workload, block, every) <= _bound(workload, block)


def choose_retain_mb(
    workload: Workload, partition: Partition, *, workers_per_host: int, memory_bytes: float
) -> int:
    """The usual bound on what a worker retains, or what those need who need more: with snapshots as
    rare as is good, if each host has the memory, and else with one a step. Raises ValueError if
    it has too little for that."""
    needed: list[int] = []
    for every in (MOST_STEPS_BETWEEN_SNAPSHOTS, 1):
        needed = [
            PLACES * snapshot_bytes(workload, block) + _most_bytes(workload, block, every)
            for block in partition.blocks
        ]
        if sum(sorted(needed)[-workers_per_host:]) <= memory_bytes:
            break
    if max(needed) > memory_bytes:
        raise ValueError(
            f"worker {needed.index(max(needed))} would retain {max(needed) / 1e6:,.0f} MB of"
            " snapshot, part of a checkpoint and messages, and this machine has"
            f" {memory_bytes / 1e6:,.0f} MB of memory; give --retain-mb, a smaller network, head or"
            " --batch-size, or fewer classes"
        )
    return max(USUAL_MB, math.ceil(max(needed) / 1e6))


def check_retention(resolved: Resolved) -> None:
    """Raise ValueError if the bound on retained messages is too little for the windows."""
    config, needed = resolved.config, []
    for block in resolved.partition.blocks:
        _, outgoing = block_specs(resolved, block)
        images = PLACES * snapshot_bytes(resolved, block)
        needed.append((images + _bytes(outgoing, _least_rooms(resolved, outgoing)), images))
    most, images = max(needed)
    worker = needed.index((most, images))
    if most > config.retain_mb * 1e6:
        raise ValueError(
            f"retain-mb {config.retain_mb} is too little: worker {worker} must retain"
            f" {(most - images) / 1e6:.1f} MB of what it has sent (window {config.window},"
            f" {config.lag_in_words}) and {images / 1e6:.1f} MB of its snapshot and a part of a"
            f" checkpoint; give --retain-mb {math.ceil(most / 1e6)}, or a smaller --batch-size"
        )


def snapshot_bytes(workload: Workload, block: Block) -> int:
    """About the size of a block's snapshot: parameters, optimizer state, probe, and a margin."""
    states = num_states(workload) * trained_bytes(workload, block)
    home_and_head, guest = _parameter_bytes(workload, block)
    return int(MARGIN * (home_and_head + guest + states)) + probe_bytes(workload, block)


def probe_bytes(workload: Workload, block: Block) -> int:
    """What the online probe holds: a column a feature and a bias, each with two states of Adam."""
    num_rows = num_features(workload.traces[block.home[-1]].output_shape) + 1
    return 3 * PROBE_ITEMSIZE * num_rows * workload.num_classes


def trained_bytes(workload: Workload, block: Block) -> int:
    """The parameters of home, head and, unless the tie leaves it as it is, guest."""
    home_and_head, guest = _parameter_bytes(workload, block)
    return home_and_head + (guest if RULES[workload.config.tie].trains_guest else 0)


def _parameter_bytes(workload: Workload, block: Block) -> tuple[int, int]:
    """What the parameters of home and head take, and those of the guest."""

    def of(units: range) -> int:
        traces = [workload.traces[unit] for unit in units]
        return sum(trace.num_trainable * _itemsize(trace) for trace in traces)

    head = workload.head_cost_of(block).trainable_bytes
    return of(block.home) + head, of(block.guest)


def num_states(workload: Workload) -> int:
    """How many tensors the optimizer has for each parameter."""
    return OPTIMIZER_STATES.get(workload.config.optimizer, UNKNOWN_STATES)


def window_bytes(workload: Workload, specs: Specs) -> int:
    """What full windows of all these streams take."""
    return _bytes(specs, {s: _size(workload, s) for s in specs})


def retained_bytes(workload: Workload, block: Block, every: int) -> int:
    """What is retained of a block's messages with a snapshot every so many steps, as far as the
    bound allows."""
    return round(max(0.0, min(_bound(workload, block), _most_bytes(workload, block, every))))


def _most_bytes(workload: Workload, block: Block, every: int) -> int:
    """What is retained of a block's messages, if no bound holds."""
    _, outgoing = block_specs(workload, block)
    return _bytes(outgoing, _full_rooms(workload, outgoing, every))


def _itemsize(unit: UnitTrace) -> int:
    sizes = [TensorSpec(shape=(1,), dtype=dtype).size_bytes for dtype in unit.trainable_dtypes]
    return max(sizes, default=0)


def _room(resolved: Resolved, block: Block, stream: Stream) -> int:
    """How many messages of a stream a block's worker retains: what its snapshots ask for, or what
    the bound allows, of which all that it sends has the same share."""
    _, outgoing = block_specs(resolved, block)
    least = _least_rooms(resolved, outgoing)
    full = _full_rooms(resolved, outgoing, resolved.config.snapshot_every)
    more = {s: full[s] - least[s] for s in outgoing}
    left = _bound(resolved, block) - _bytes(outgoing, least)
    share = max(0.0, min(1.0, left / max(1, _bytes(outgoing, more))))
    return least[stream] + math.floor(share * more[stream])


def _full_rooms(workload: Workload, outgoing: Specs, every: int) -> dict[Stream, int]:
    """What is retained if the receiver saves its state every so many steps: then its sender never
    waits, and requests no snapshot."""
    return {s: every + _size(workload, s) + _late(workload, s) for s in outgoing}


def _least_rooms(workload: Workload, outgoing: Specs) -> dict[Stream, int]:
    return _full_rooms(workload, outgoing, every=1)


def _bytes(streams: Specs, rooms: dict[Stream, int]) -> int:
    return sum(rooms[s] * message_bytes(specs) for s, specs in streams.items())


def _bound(workload: Workload, block: Block) -> float:
    """What the bound leaves for a worker's messages beside its snapshots; while it is not chosen,
    what it will leave at least."""
    images, retain_mb = PLACES * snapshot_bytes(workload, block), workload.config.retain_mb
    if retain_mb is None:
        return max(USUAL_MB * 1e6 - images, _most_bytes(workload, block, every=1))
    return retain_mb * 1e6 - images


def _late(workload: Workload, stream: Stream) -> int:
    """A tie that waits for no snapshot is never late."""
    waits = stream is Stream.TIE_DOWN and not workload.config.free_ties
    return workload.config.longest_lag if waits else 0


def _size(workload: Workload, stream: Stream) -> int:
    """The window of a stream, in messages."""
    is_wide = stream is Stream.TIE_DOWN or (
        stream is Stream.TIE_UP and workload.config.free_ties  # only its bound may hold it up
    )
    return max(2, workload.config.longest_lag + 1) if is_wide else workload.window


def _window(workload: Workload, stream: Stream, specs: tuple[TensorSpec, ...], room: int) -> Window:
    size, messages = message_bytes(specs), _size(workload, stream)
    return Window(
        max_messages=messages,
        max_bytes=messages * size,
        message_bytes=size,
        max_retained=room,
    )
