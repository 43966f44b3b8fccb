"""How much memory a worker takes, estimated before it starts, and how often it saves its state.

Owns the estimate, and what is said if a GPU has too little. It is of what the worker holds itself:
Python and torch, some 250 MB on a CPU and more on a GPU, come on top. Rough: blocks of resnet-small
and resnet18-cifar grew on a CPU by .88 to 1.17 times what is said here of weights, activations and
messages, 15 MB for torch's first step aside.
"""

from dataclasses import dataclass

from launch.planning.partition import Block
from launch.planning.resolved import Resolved
from launch.planning.streams import (
    MOST_STEPS_BETWEEN_SNAPSHOTS,
    block_specs,
    fits_bound,
    num_states,
    probe_bytes,
    retained_bytes,
    snapshot_bytes,
    trained_bytes,
    window_bytes,
)
from launch.planning.workload import Workload
from runtime.block import TensorSpec, message_bytes
from runtime.core.plan import Stream

# Outputs' worth of memory that a backward takes for a moment: gradients of a residual block's
# layers, and the copies in other layouts that convolutions make. Measured, see above.
PASSING = 8


# Snapshots are as rare as they can be while what each block retains and the copy of its state take
# no more than this share of its own memory, or than LITTLE_BYTES; or what it retains alone no more
# than MOST_RETAINED of it.
MOST_FOR_RESTARTS = 0.5
MOST_RETAINED = 0.1
LITTLE_BYTES = 64e6


@dataclass(frozen=True, kw_only=True)
class BlockMemory:
    """Bytes of one worker. `retained`, `snapshot` and `checkpoint` are there for restarts, in the
    keeper's memory: messages for a restarted neighbour, a copy of the block's state, and another
    one while that is on its way to the disk. `staged` is there on a GPU only: the step's input, and
    that of the next."""

    weights: int
    activations: int
    messages: int
    retained: int
    snapshot: int
    checkpoint: int
    staged: int

    @property
    def own(self) -> int:
        """What it would take if nobody ever restarted."""
        return self.weights + self.activations + self.messages

    @property
    def total(self) -> int:
        """Where there is one memory."""
        return self.weights + self.activations + self.on_host

    @property
    def on_gpu(self) -> int:
        """What a worker with a GPU has there."""
        return self.weights + self.activations + self.staged

    @property
    def on_host(self) -> int:
        """What such a worker has in its host's memory."""
        return self.messages + self.retained + self.snapshot + self.checkpoint


def block_memory(workload: Workload, block: Block, *, every: int | None = None) -> BlockMemory:
    """Estimate what the worker of a block takes with a snapshot every so many steps: as the config
    says, or as rarely as may be.

    weights: parameters and buffers, gradients and optimizer state of home, guest, head and probe.
    activations: a step's input, all that is saved of it for the backward, and what passes.
    messages: the windows of what comes in, unless that lies where its sender retains it, and one
    of each kind that goes out.
    staged: two activations as they come in.
    """
    every = every or workload.config.snapshot_every or MOST_STEPS_BETWEEN_SNAPSHOTS
    head = workload.head_cost_of(block)
    units = (*block.home, *block.guest)
    weights = sum(workload.unit_costs[unit].weight_bytes for unit in units) + head.weight_bytes
    kept = _kept_bytes(workload, units) + head.kept_bytes
    largest = max(_output_bytes(workload, unit) for unit in units)
    a_sample = _input_bytes(workload, block) + kept + PASSING * largest
    incoming, outgoing = block_specs(workload, block)
    messages = sum(message_bytes(specs) for specs in outgoing.values())
    if workload.config.link != "shm":
        messages += window_bytes(workload, incoming)
    weights += trained_bytes(workload, block) * (1 + num_states(workload))
    snapshot = snapshot_bytes(workload, block)
    return BlockMemory(
        weights=weights + probe_bytes(workload, block),
        activations=workload.num_samples * a_sample,
        messages=messages,
        retained=retained_bytes(workload, block, every),
        snapshot=snapshot,
        checkpoint=snapshot,
        staged=2 * message_bytes(incoming.get(Stream.ACTIVATION, ())),
    )


def out_of_memory(
    needed: BlockMemory, *, block_index: int, room_bytes: int, total_bytes: int
) -> str:
    """What is said when a block's GPU has too little memory; `room_bytes` is what other processes
    leave of it."""
    return (
        f"worker {block_index} is out of GPU memory: its block needs about"
        f" {needed.on_gpu / 1e6:,.0f} MB there ({needed.weights / 1e6:,.0f} for weights, gradients"
        f" and optimizer, {needed.activations / 1e6:,.0f} for activations,"
        f" {needed.staged / 1e6:,.0f} for its inputs), and of {total_bytes / 1e6:,.0f} MB"
        f" {room_bytes / 1e6:,.0f} are free for it; give a smaller --batch-size, --recompute, more"
        " workers, or each a GPU"
    )


def choose_snapshot_every(resolved: Resolved) -> int:
    """The most steps between snapshots, of which a restarted worker repeats half on the average,
    that keep what is there for restarts small beside the blocks themselves and within the bound."""
    blocks = resolved.partition.blocks
    for every in range(MOST_STEPS_BETWEEN_SNAPSHOTS, 1, -1):
        fits = all(fits_bound(resolved, block, every) for block in blocks)
        if fits and all(_is_moderate(block_memory(resolved, b, every=every)) for b in blocks):
            return every
    return 1


def _is_moderate(took: BlockMemory) -> bool:
    restarts = took.retained + took.snapshot
    is_small = took.retained <= MOST_RETAINED * took.own
    return is_small or restarts <= max(LITTLE_BYTES, MOST_FOR_RESTARTS * took.own)


def _kept_bytes(workload: Workload, units: tuple[int, ...]) -> int:
    """What one sample leaves until the backward: with recomputation the units' outputs, and what
    the unit leaves that is run again."""
    kept = [workload.unit_costs[unit].kept_bytes for unit in units]
    if not workload.numerics.recompute:
        return sum(kept)
    return sum(_output_bytes(workload, unit) for unit in units) + max(kept)


def _input_bytes(workload: Workload, block: Block) -> int:
    """One sample's input; what comes over an edge is in the window of its messages already, unless
    it was rounded: then the block has a copy of the type that was computed."""
    incoming, _ = block_specs(workload, block)
    if Stream.ACTIVATION in incoming:
        below = block.home.start - 1
        rounds = workload.wire(block.index - 1, below).rounds_activations
        return _output_bytes(workload, below) if rounds else 0
    return TensorSpec(shape=workload.image_shape, dtype="float32").size_bytes


def _output_bytes(workload: Workload, unit: int) -> int:
    trace = workload.traces[unit]
    return TensorSpec(shape=trace.output_shape, dtype=trace.output_dtype).size_bytes
