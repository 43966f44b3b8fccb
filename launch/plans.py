"""What crosses each edge of a resolved run, and each worker's plan: steps, windows, retention.

Owns how many messages are kept for workers that restart, and how often snapshots are taken, under
the bound on that memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runtime.core.plan import Stream, Window, WorkerPlan
from runtime.step import Specs, TensorSpec, message_bytes

if TYPE_CHECKING:
    from launch.resolve import Resolved

MOST_STEPS_BETWEEN_SNAPSHOTS = 4  # a restarted worker repeats half of them, on the average
MESSAGES_SHARE = 0.5  # of --retain-mb, unless the windows need more; the rest is for snapshots
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
    rooms = _rooms(resolved, outgoing, config.snapshot_every)
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
            _bytes(outgoing, _full_rooms(resolved, outgoing, every))
            <= MESSAGES_SHARE * _bound(resolved)
            for _, outgoing in _all_specs(resolved)
        ):
            return every
    return 1


def check_retention(resolved: Resolved) -> None:
    """Raise ValueError where the bound on retained messages is too little for the windows."""
    for k, (_, outgoing) in enumerate(_all_specs(resolved)):
        least = _bytes(outgoing, _least_rooms(resolved, outgoing))
        if least > _bound(resolved):
            config = resolved.config
            raise ValueError(
                f"retain-mb {config.retain_mb} is too little: worker {k} must be able to keep"
                f" {least / 1e6:.1f} MB of what it has sent (window {config.window}, lag"
                f" {config.lag}); give --retain-mb {math.ceil(least / 1e6)}, or a smaller"
                " --batch-size"
            )


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


def _rooms(resolved: Resolved, outgoing: Specs, every: int) -> dict[Stream, int]:
    """How many messages of each stream are kept: what `every` asks for, or the bound allows."""
    least, full = _least_rooms(resolved, outgoing), _full_rooms(resolved, outgoing, every)
    more = {s: full[s] - least[s] for s in outgoing}
    left = MESSAGES_SHARE * _bound(resolved) - _bytes(outgoing, least)
    share = max(0.0, min(1.0, left / max(1, _bytes(outgoing, more))))
    return {s: least[s] + math.floor(share * more[s]) for s in outgoing}


def _full_rooms(resolved: Resolved, outgoing: Specs, every: int) -> dict[Stream, int]:
    """Twice what is kept where all goes well, for at half a snapshot is asked for."""
    return {s: 2 * (every + _size(resolved, s) + _late(resolved, s)) for s in outgoing}


def _least_rooms(resolved: Resolved, outgoing: Specs) -> dict[Stream, int]:
    return {s: _size(resolved, s) + _late(resolved, s) + 1 for s in outgoing}


def _bytes(outgoing: Specs, rooms: dict[Stream, int]) -> int:
    return sum(rooms[s] * message_bytes(specs) for s, specs in outgoing.items())


def _bound(resolved: Resolved) -> float:
    return resolved.config.retain_mb * 1e6


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
