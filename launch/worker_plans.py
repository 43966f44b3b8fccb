"""What crosses each edge of a resolved run, and each worker's plan: steps, windows, retention.

Owns how many messages are kept for workers that restart, and how often snapshots are taken, under
the bound on that memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from models.heads import DEFAULT_HEAD_FEATURES, build_head
from models.network import UnitTrace
from models.objectives import load_objective
from runtime.core.plan import Stream, Window, WorkerPlan
from runtime.state.saving import PLACES
from runtime.step import Specs, TensorSpec, message_bytes

if TYPE_CHECKING:
    from launch.resolve import Resolved

MOST_STEPS_BETWEEN_SNAPSHOTS = 4  # a restarted worker repeats half of them, on the average
OPTIMIZER_STATES = {"sgd": 1, "adamw": 2}  # tensors that an optimizer keeps for each parameter
UNKNOWN_STATES = 2
MARGIN = 1.1  # over a block's parameters and their state: buffers, names, the probe
UPWARD = (Stream.ACTIVATION, Stream.TIE_UP)


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
    config = resolved.config
    incoming, outgoing = _specs(resolved, k)
    rooms = _rooms(resolved, k, outgoing, config.snapshot_every)
    return WorkerPlan(
        num_steps=config.steps,
        lag=config.lag,
        incoming={s: _window(resolved, s, specs, None) for s, specs in incoming.items()},
        outgoing={s: _window(resolved, s, specs, rooms[s]) for s, specs in outgoing.items()},
        snapshot_every=config.snapshot_every,
        checkpoint_every=config.checkpoint_every,
    )


def choose_snapshot_every(resolved: Resolved) -> int:
    """The most steps between snapshots for which all that is sent meanwhile can be kept."""
    for every in range(MOST_STEPS_BETWEEN_SNAPSHOTS, 1, -1):
        if all(
            _bytes(outgoing, _full_rooms(resolved, outgoing, every)) <= _bound(resolved, k)
            for k, (_, outgoing) in enumerate(_all_specs(resolved))
        ):
            return every
    return 1


def check_retention(resolved: Resolved) -> None:
    """Raise ValueError where the bound on retained messages is too little for the windows."""
    for k, (_, outgoing) in enumerate(_all_specs(resolved)):
        least = _bytes(outgoing, _least_rooms(resolved, outgoing))
        if least > _bound(resolved, k):
            config, images = resolved.config, PLACES * image_bytes(resolved, k)
            raise ValueError(
                f"retain-mb {config.retain_mb} is too little: worker {k} must be able to keep"
                f" {least / 1e6:.1f} MB of what it has sent (window {config.window}, lag"
                f" {config.lag}) and {images / 1e6:.1f} MB of snapshots; give --retain-mb"
                f" {math.ceil((least + images) / 1e6)}, or a smaller --batch-size"
            )


def image_bytes(resolved: Resolved, k: int) -> int:
    """About the size of one snapshot of block k: parameters, optimizer state, and a margin."""
    config, block = resolved.config, resolved.partition.blocks[k]
    units = [resolved.traces[unit] for unit in (*block.home, *block.guest)]
    objective = load_objective(
        config.objective, temperature=config.temperature, num_classes=resolved.num_classes
    )
    with torch.device("meta"):  # only its sizes are wanted
        head = build_head(
            in_shape=units[-1].output_shape,
            depth=config.decoder_depth[k],
            out_features=objective.head_features or DEFAULT_HEAD_FEATURES,
        )
    weights = sum(unit.num_trainable * _itemsize(unit) for unit in units)
    weights += sum(p.numel() * p.itemsize for p in head.parameters())
    return int(MARGIN * weights * (1 + OPTIMIZER_STATES.get(config.optimizer, UNKNOWN_STATES)))


def _itemsize(unit: UnitTrace) -> int:
    sizes = [TensorSpec(shape=(1,), dtype=dtype).size_bytes for dtype in unit.trainable_dtypes]
    return max(sizes, default=0)


def _all_specs(resolved: Resolved) -> list[tuple[Specs, Specs]]:
    return [_specs(resolved, k) for k in range(resolved.partition.num_blocks)]


def _specs(resolved: Resolved, k: int) -> tuple[Specs, Specs]:
    """What worker k receives and what it sends."""
    below = edge_specs(resolved, k - 1) if k > 0 else {}
    above = edge_specs(resolved, k) if k + 1 < resolved.partition.num_blocks else {}
    incoming = {s: below[s] for s in below if s in UPWARD}
    incoming |= {s: above[s] for s in above if s not in UPWARD}
    outgoing = {s: above[s] for s in above if s in UPWARD}
    outgoing |= {s: below[s] for s in below if s not in UPWARD}
    return incoming, outgoing


def _rooms(resolved: Resolved, k: int, outgoing: Specs, every: int) -> dict[Stream, int]:
    """How many messages of each stream are kept: what `every` asks for, or the bound allows."""
    least, full = _least_rooms(resolved, outgoing), _full_rooms(resolved, outgoing, every)
    more = {s: full[s] - least[s] for s in outgoing}
    left = _bound(resolved, k) - _bytes(outgoing, least)
    share = max(0.0, min(1.0, left / max(1, _bytes(outgoing, more))))
    return {s: least[s] + math.floor(share * more[s]) for s in outgoing}


def _full_rooms(resolved: Resolved, outgoing: Specs, every: int) -> dict[Stream, int]:
    """Twice what is kept where all goes well, for at half a snapshot is asked for."""
    return {s: 2 * (every + _size(resolved, s) + _late(resolved, s)) for s in outgoing}


def _least_rooms(resolved: Resolved, outgoing: Specs) -> dict[Stream, int]:
    return {s: _size(resolved, s) + _late(resolved, s) + 1 for s in outgoing}


def _bytes(outgoing: Specs, rooms: dict[Stream, int]) -> int:
    return sum(rooms[s] * message_bytes(specs) for s, specs in outgoing.items())


def _bound(resolved: Resolved, k: int) -> float:
    """What the user's bound leaves for worker k's messages beside its snapshots."""
    return resolved.config.retain_mb * 1e6 - PLACES * image_bytes(resolved, k)


def _late(resolved: Resolved, stream: Stream) -> int:
    return resolved.config.lag if stream is Stream.TIE_DOWN else 0


def _size(resolved: Resolved, stream: Stream) -> int:
    """The window of a stream, in messages."""
    config = resolved.config
    return max(2, config.lag + 1) if stream is Stream.TIE_DOWN else config.window


def _window(
    resolved: Resolved, stream: Stream, specs: tuple[TensorSpec, ...], room: int | None
) -> Window:
    size, messages = message_bytes(specs), _size(resolved, stream)
    return Window(
        max_messages=messages,
        max_bytes=messages * size,
        message_bytes=size,
        max_retained=room,
    )
