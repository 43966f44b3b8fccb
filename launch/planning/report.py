"""A plan as people read it: tables of blocks, memory, edges and schedules, and what to do.

Owns how a plan is shown. The figures are made elsewhere.
"""

from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.config import show
from launch.environment import Environment
from launch.planning.costs import counted_costs
from launch.planning.memory import BlockMemory, block_memory
from launch.planning.notes import notes_on
from launch.planning.partition import Block
from launch.planning.prediction import Prediction, predict
from launch.planning.resolved import Resolved
from launch.planning.streams import edge_specs
from models import host_memory
from runtime.block import message_bytes
from runtime.core.plan import Stream
from runtime.records.bubbles import lock_step_bubble, zero_bubble_bubble
from runtime.records.progress import units_label
from runtime.records.tables import plain_table

NONE = "–"
MICROBATCHES = (4, 8, 16, 32)
EQUAL_TO = 0.95  # of data parallelism's gain, above which the choice is not one of speed


def render_plan(resolved: Resolved, console: Console, *, environment: Environment) -> None:
    """Print the plan of a resolved run."""
    costs = resolved.measured or counted_costs(resolved)
    prediction = predict(resolved, costs, cores=environment.cores)
    tables = [_blocks(resolved, prediction), _memory(resolved), _rates(resolved, prediction)]
    if prediction.edges:
        tables += [_edges(prediction), _schedules(prediction)]
    config = resolved.config
    console.print(
        f"{config.model}, {config.workers} workers, batch {config.batch_size} in two views,"
        f" overlap {show(config.overlap) or 0}, tie {config.tie}, {config.lag_in_words},"
        f" window {config.window}, cuts {','.join(map(str, config.cuts))}{_wire(resolved)}",
        soft_wrap=True,
    )
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    for line in (*(f"note: {note}" for note in notes_on(resolved)), *_advice(resolved, prediction)):
        console.print(Text(line), soft_wrap=True)


def _wire(resolved: Resolved) -> str:
    """In which precision edges carry what crosses them, if any rounds."""
    config = resolved.config
    if set(config.wire_precision) == {"exact"}:
        return ""
    return f", wire {show(config.wire_precision)}{', ties too' if config.wire_ties else ''}"


def _blocks(resolved: Resolved, prediction: Prediction) -> Table:
    """What each block holds and computes; the utilisation is that of full rate's. Before them, of
    block 0's step, what its batch and the views of it take, if that was measured."""
    table = plain_table("block", "units (+ guest)")
    for heading in ("parameters", "GFLOP a step", "ms a step", "utilisation"):
        table.add_column(heading, justify="right", no_wrap=True)
    units = resolved.network.units
    counted = counted_costs(resolved)
    if resolved.source_s is not None:
        share = NONE if resolved.measured is None else f"{resolved.source_s / prediction.step:.0%}"
        taken = f"{resolved.source_s * 1e3:.1f}"
        table.add_row("", Text("source: batch, views"), NONE, NONE, taken, share)
    for block, step in zip(resolved.partition.blocks, prediction.blocks, strict=True):
        members = (*block.home, *block.guest)
        parameters = sum(resolved.traces[unit].num_trainable for unit in members)
        home, guest = ([units[i].name for i in part] for part in (block.home, block.guest))
        table.add_row(
            Text(str(block.index)),
            Text(units_label(home, guest)),
            f"{parameters + resolved.head_cost_of(block).num_trainable:,}",
            f"{counted.of(block).step / 1e9:.3g}",
            _milliseconds(resolved, block, step),
            f"{step / prediction.step:.0%}",
        )
    return table


def _milliseconds(resolved: Resolved, block: Block, step: float) -> str:
    """Of a block's step, in seconds if it was measured; for a plan block 0 may be."""
    if resolved.measured is not None:
        return f"{step * 1e3:.1f}"
    if block.index or resolved.source_s is None or resolved.learning_s is None:
        return NONE
    return f"{(resolved.source_s + resolved.learning_s) * 1e3:.1f}"


def _memory(resolved: Resolved) -> Table:
    """What each worker takes, and what it sends up and holds with its neighbours, in megabytes; on
    its GPU and on its host, if it has one."""
    table = plain_table("block, MB")
    has_gpu = resolved.config.device == "cuda"
    sums = ("on GPU", "on host") if has_gpu else ("all",)
    headings = ("weights", "activations", "messages", "retained", "snapshot", "checkpoint", *sums)
    for heading in (*headings, "sent up", "tie"):
        table.add_column(heading, justify="right", no_wrap=True)
    took = [block_memory(resolved, block) for block in resolved.partition.blocks]
    for k, of_block in enumerate(took):
        is_top = k + 1 == resolved.partition.num_blocks
        specs = {} if is_top else edge_specs(resolved, k)
        crossing = [specs.get(stream) for stream in (Stream.ACTIVATION, Stream.TIE_UP)]
        table.add_row(
            Text(str(k)),
            *_megabytes([of_block], has_gpu=has_gpu),
            *(NONE if sent is None else f"{message_bytes(sent) / 1e6:,.2f}" for sent in crossing),
        )
    table.add_row(Text("in all"), *_megabytes(took, has_gpu=has_gpu), "", "")
    return table


def _megabytes(took: Sequence[BlockMemory], *, has_gpu: bool) -> list[str]:
    """What some workers take together, column by column."""
    columns = [
        (
            *(t.weights, t.activations, t.messages, t.retained, t.snapshot, t.checkpoint),
            *((t.on_gpu, t.on_host) if has_gpu else (t.total,)),
        )
        for t in took
    ]
    return [f"{sum(sizes) / 1e6:,.1f}" for sizes in zip(*columns, strict=True)]


def _rates(resolved: Resolved, prediction: Prediction) -> Table:
    """Samples/s if times were measured; else how the same work compares, which FLOPs tell."""
    table = plain_table("predicted, without latency")
    table.add_column("samples/s", justify="right", no_wrap=True)
    table.add_column("x one process, end to end", justify="right", no_wrap=True)
    here = f"on {prediction.cores} core{'s' if prediction.cores > 1 else ''}"
    for label, step in (
        ("this pipeline, a device or cores for every worker", prediction.step),
        (f"this pipeline {here}", prediction.step_here),
        ("these blocks in one process, one after another", prediction.one_process),
        (f"one process, end to end, {_threads(resolved)}", prediction.end_to_end),
    ):
        if label.endswith(here) and resolved.config.device != "cpu":
            continue
        rate = resolved.config.batch_size / step if resolved.measured and step else None
        ratio = f"{prediction.end_to_end / step:.2f} x" if step else NONE
        table.add_row(Text(label), NONE if rate is None else f"{rate:.1f}", ratio)
    return table


def _threads(resolved: Resolved) -> str:
    threads = resolved.config.threads
    return f"with {threads} thread{'s' if threads > 1 else ''} too"


def _edges(prediction: Prediction) -> Table:
    """Both inequalities of full rate, in steps of the slowest block; L is a link's latency."""
    table = plain_table("full rate of an edge")
    tie, window = ("f + C above\n+ 2 L", "<=\nlag + 1"), ("C above\n+ 2 L", "<=\nwindow")
    for heading in (*tie, *window, "with\nL = 0", "as long\nas L is"):
        table.add_column(heading, justify="right", no_wrap=True)
    for edge in prediction.edges:
        table.add_row(
            Text(f"{edge.edge}-{edge.edge + 1}"),
            NONE if edge.tie is None else f"{edge.tie:.2f}",
            NONE if edge.tie is None else str(edge.tie_limit),
            f"{edge.window:.2f}",
            str(edge.window_limit),
            "yes" if edge.slowness <= 1 else f"no, {1 / edge.slowness:.0%}",
            f"<= {edge.latency:.2f}",
        )
    return table


def _schedules(prediction: Prediction) -> Table:
    """How much of a step the lock-step schedules idle, if blocks were equal and transfers free."""
    num_blocks = len(prediction.blocks)
    table = plain_table("lock-step schedules idle, with microbatches:")
    for count in MICROBATCHES:
        table.add_column(str(count), justify="right", no_wrap=True)
    for label, bubble in (
        ("GPipe, 1F1B: (P-1)/(m+P-1)", lock_step_bubble),
        ("zero-bubble ZB-H1: (P-1)/(3m+P-1), arXiv 2401.10241", zero_bubble_bubble),
    ):
        table.add_row(Text(label), *(f"{bubble(num_blocks, m):.0%}" for m in MICROBATCHES))
    ours = f"{1 - prediction.full_rate:.0%}"
    table.add_row(Text("this pipeline, once it is full (ties)"), *(ours for _ in MICROBATCHES))
    return table


def _advice(resolved: Resolved, prediction: Prediction) -> Iterator[str]:
    """What the figures rest on, and when another kind of parallelism would serve better."""
    yield from _too_much_memory(resolved)
    if resolved.measured is None:
        yield (
            "Figures are relative, from counted FLOPs; samples/s need times, which --cuts profiled"
            " measures. Layers differ in how long a FLOP takes."
        )
    workers = resolved.config.workers
    if workers == 1:
        return
    gain = prediction.end_to_end / prediction.step
    yield (
        f"With full overlap, which trains each unit twice, {workers} workers give at most"
        f" {(workers + 1) // 2} x one device; with overlap 0, {workers} x; this plan gives"
        f" {gain:.2f} x."
    )
    took = prediction.end_to_end_memory
    needed_mb, room_mb = (took.weights + took.activations) / 1e6, _room_mb(resolved)
    alone = f"One process end to end takes about {needed_mb:,.0f} MB"
    if room_mb is None:
        yield f"{alone}. Where that fits, data parallelism would give up to {workers} x."
        return
    alone += f" of {room_mb:,.0f} MB"
    if needed_mb > room_mb:
        yield f"{alone}: it does not fit, so plain data parallelism is no choice here."
    elif gain < EQUAL_TO * workers:
        yield (
            f"{alone}: it fits, so data parallelism over {workers} devices like this one would give"
            f" up to {workers} x and serve better, unless links are slow or jittery, devices"
            " unequal, or workers die. (A contrastive loss must then gather the whole batch.)"
        )
    else:
        yield f"{alone}: it fits, and data parallelism would be no faster than this plan."


def _too_much_memory(resolved: Resolved) -> Iterator[str]:
    """Whether the workers of a host would take more than this one has."""
    took = [block_memory(resolved, block) for block in resolved.partition.blocks]
    on_host = sorted(t.on_host if resolved.config.device == "cuda" else t.total for t in took)
    needed, here = sum(on_host[-resolved.workers_per_host :]), host_memory.total_bytes()
    if needed > here:
        yield (
            f"The workers of a host take about {needed / 1e6:,.0f} MB, and this machine has"
            f" {here / 1e6:,.0f} MB: too little for this run, unless --retain-mb, a smaller"
            " --batch-size or network, or more hosts make it fit."
        )


def _room_mb(resolved: Resolved) -> float | None:
    """The user's bound, or all of a device's memory; None if no such device is here."""
    if resolved.config.max_memory_mb is not None:
        return resolved.config.max_memory_mb
    if resolved.config.device == "cuda":
        if not torch.cuda.is_available():
            return None
        return float(torch.cuda.get_device_properties(0).total_memory / 1e6)
    return float(host_memory.total_bytes() / 1e6)
