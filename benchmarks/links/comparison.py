"""How fast each link is, beside what its parts can do at most.

    python -m benchmarks.links

Bandwidth: a flow of messages with a few in flight, each acknowledged. Latency: half the time from
one message to its acknowledgement. In the same run: a copy in memory, pyzmq and gloo alone. What
goes through shared memory is copied once, by its sender, and that copy is timed; the other links
send what lies there already.
"""

import multiprocessing
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from benchmarks.harness import (
    RESULTS,
    Results,
    header,
    make_console,
    make_table,
    median_and_spread,
    print_header,
)
from benchmarks.links.cases import OURS, RAW, Case, copy, make_sender, serve, stream
from runtime.links.guards import Macs, digest_of
from runtime.trust.keys import RunKeys

KIB, MIB = 1 << 10, 1 << 20
SIZES = (KIB, 16 * KIB, 256 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB)
BYTES_PER_ROUND = 512 * MIB
MOST_MESSAGES = 400
NUM_PINGS = 100
MEMCPY = "memcpy"
MAC = "blake3"  # of a message, by one end
SIGNED = "what signing allows"
BASELINES = {
    "shm": MEMCPY,
    "shm+payload": MEMCPY,
    "zmq-ipc": "raw ipc",
    "zmq-ipc+payload": "raw ipc",
    "zmq-tcp": SIGNED,
    "zmq-tcp unsigned": "raw tcp",
    "zmq-tcp encrypted": "zmq-tcp unsigned",
    "gloo": "raw gloo",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    rounds: int = 5
    """Rounds of each size; each visits every system once."""
    max_mib: int = 256
    """Largest message."""
    json: Path = RESULTS / "links.jsonl"
    """File of JSON lines, one a size and system."""
    picture: Path = RESULTS / "links.png"
    """The picture's file."""
    redraw: bool = False
    """Draw what the file holds instead of measuring."""


def measure_size(orders: Connection, size: int, rounds: int) -> list[dict[str, Any]]:
    """All systems at one size, in turn, so that a slow moment meets every one, and in another order
    each round: what one leaves of the memory, the next one finds."""
    num = max(4, min(MOST_MESSAGES, BYTES_PER_ROUND // size))
    window = 8 if size < 16 * MIB else 2
    found: dict[str, list[float]] = {}
    pings: dict[str, list[float]] = {}
    source = torch.ones(size, dtype=torch.uint8)
    rooms = [torch.ones(size, dtype=torch.uint8) for _ in range(window + 1)]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        for number in range(rounds):
            found.setdefault(MEMCPY, []).append(copy(source, rooms, num) / num)
            found.setdefault(MAC, []).append(sign(source, num) / num)
            for system in random.Random(number).sample((*OURS, *RAW), len(OURS) + len(RAW)):
                where = f"{directory}/{system.replace(' ', '-')}-{number}"
                flow = Case(
                    system=system, size_bytes=size, num_messages=num, window=window, where=where
                )
                found.setdefault(system, []).append(run(orders, flow) / num)
                few = max(3, min(NUM_PINGS, num))
                ping = Case(
                    system=system, size_bytes=size, num_messages=few, window=1, where=f"{where}-p"
                )
                pings.setdefault(system, []).append(run(orders, ping) / few / 2)
    return [
        {
            "system": system,
            "size_bytes": size,
            "gb_per_s": [size / s / 1e9 for s in seconds],
            "latency_us": [s * 1e6 for s in pings.get(system, [])],
        }
        for system, seconds in found.items()
    ]


def run(orders: Connection, case: Case, is_warm: Callable[[], object] = lambda: None) -> float:
    """Seconds that a case takes, after a round to warm up, behind which `is_warm` is called."""
    sender = make_sender(case)
    orders.send((case, sender.address, 2))
    sender.meet()
    stream(sender, case, 0)
    is_warm()
    took_s = stream(sender, case, case.num_messages)
    sender.close()
    if not orders.poll(60) or orders.recv() != "done":
        raise RuntimeError(f"the receiver of {case} did not end")
    return took_s


def show(records: Sequence[dict[str, Any]]) -> None:
    """A row a system: GB/s and share of its baseline at each size, and latency of the smallest."""
    sizes = sorted({record["size_bytes"] for record in records})
    by = {(r["system"], r["size_bytes"]): r for r in records}
    for heading, key, form in (("GB/s", "gb_per_s", "{:.2f}"), ("µs", "latency_us", "{:.0f}")):
        table = make_table(heading, *map(size_label, sizes))
        for system in (MEMCPY, MAC, *OURS, *RAW):
            values = [by[system, size][key] for size in sizes]
            if all(values):
                cells = [form.format(median_and_spread(v).median) for v in values]
                table.add_row(system, *cells)
        make_console().print(table)
        print()
    table = make_table("of its baseline", *map(size_label, sizes))
    for system, baseline in BASELINES.items():
        shares = []
        for size in sizes:
            allowed = of_signing(by, size) if baseline == SIGNED else by[baseline, size]["gb_per_s"]
            pairs = zip(by[system, size]["gb_per_s"], allowed, strict=True)
            shares.append(f"{median_and_spread([a / b for a, b in pairs]).median:.2f}")
        table.add_row(f"{system} of {baseline}", *shares)
    make_console().print(table)


def of_signing(by: Mapping[tuple[str, int], Mapping[str, Any]], size: int) -> list[float]:
    """GB/s if each end signs a message, or checks it, and sends nothing meanwhile."""
    plain, mac = (by[system, size]["gb_per_s"] for system in ("zmq-tcp unsigned", MAC))
    return [1 / (1 / p + 2 / m) for p, m in zip(plain, mac, strict=True)]


def sign(source: torch.Tensor, num_messages: int) -> float:
    """Seconds that signing so many messages takes."""
    macs = Macs(RunKeys(b"secret", "benchmark").edge(0, is_lower=True))
    began_s = time.perf_counter()
    for _ in range(num_messages):
        digest_of(macs.makes_hash, (source,))
    return time.perf_counter() - began_s


def size_label(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Bandwidth and latency over the size of a message."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    keys = (("gb_per_s", "GB/s"), ("latency_us", "one-way latency, µs"))
    for axis, (key, label) in zip(axes, keys, strict=True):
        for i, system in enumerate((MEMCPY, *OURS, *RAW)):  # a colour each, in both panels
            own = [r for r in records if r["system"] == system and r[key]]
            if own:
                xs = [r["size_bytes"] for r in own]
                ys = [median_and_spread(r[key]).median for r in own]
                style = "--" if system in (MEMCPY, *RAW) else "-"
                axis.plot(xs, ys, style, marker=".", color=f"C{i}", label=system)
        axis.set(xscale="log", yscale="log", xlabel="bytes a message", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure, print tables, write the records, and draw them."""
    results = Results(options.json)
    if not options.redraw:
        facts = header()
        print_header(facts, make_console())
        torch.set_num_threads(1)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its memory goes with it
        options.json.unlink(missing_ok=True)
        spawn = multiprocessing.get_context("spawn")
        orders, theirs = spawn.Pipe()
        peer = spawn.Process(target=serve, args=(theirs,), daemon=True)
        peer.start()
        for size in (size for size in SIZES if size <= options.max_mib * MIB):
            print(f"messages of {size_label(size)}", file=sys.stderr)
            for record in measure_size(orders, size, options.rounds):
                results.append(record | {"header": facts})
        orders.send(None)
        peer.join(60)
    records = results.read()
    show(records)
    draw(records, options.picture)
