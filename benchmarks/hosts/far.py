"""A slow link between two hosts: what it leaves of the rate, with and without rounded messages.

    python -m benchmarks.hosts.far

Two workers on one machine, whose messages go through a proxy that delays them and has a rate
(benchmarks.wan). The ceiling is the lesser of what the same job does without the proxy, and of what
the link can carry of its largest direction; lag and window are the least that the inequalities of
full rate allow (launch.planning.rates), with the link's latencies in them.
"""

import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.harness import (
    Results,
    header,
    make_console,
    make_table,
    median_and_spread,
    print_header,
    run_once,
)
from benchmarks.hosts.job import PIPELINE
from benchmarks.wan.proxy import WanProxy
from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.resolve import resolve
from runtime.block import message_bytes
from runtime.core.plan import Side

FAR = ("-m", "benchmarks.wan.pipeline_far")
WIRES = {
    "exact": (),
    "activations bf16": ("--wire-precision=bf16",),
    "activations and ties bf16": ("--wire-precision=bf16", "--wire-ties"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The link, and what is trained over it."""

    rtt_ms: float = 50.0
    """A round trip."""
    mbit_per_s: float = 100.0
    """Of each direction."""
    runs: int = 3
    """Of each; medians count."""
    steps: int = 80
    """Of a run."""
    flags: str = "--batch-size 64"
    """Of the main job."""
    json: Path | None = None
    """File that gets a JSON line a run."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link's times: of a step's messages up and down, on the wire and in all, and of a credit."""

    wire_s: float
    up_s: float
    down_s: float
    credit_s: float

    @classmethod
    def of(cls, up_bytes: int, down_bytes: int, *, rtt_s: float, bits_per_s: float) -> "Link":
        up_s, down_s = (8 * size / bits_per_s for size in (up_bytes, down_bytes))
        return cls(
            wire_s=max(up_s, down_s),
            up_s=rtt_s / 2 + up_s,
            down_s=rtt_s / 2 + down_s,
            credit_s=rtt_s / 2,
        )

    def lag_and_window(self, step_s: float) -> tuple[int, int]:
        """The least that full rate takes, for blocks of `step_s` each, all of it in the home."""
        pace_s = max(step_s, self.wire_s)
        lag = math.ceil((2 * step_s + self.up_s + self.down_s) / pace_s) - 1
        window = math.ceil((step_s + self.up_s + self.credit_s) / pace_s)
        return max(1, lag), max(2, window)


def bytes_of(flags: Sequence[str]) -> tuple[int, int]:
    """What crosses the edge in a step, up and down."""
    config = parse(list(flags), prog="far")
    job = LocalLearningJob(resolve(config, environment=Environment.from_process()))
    sizes = {Side.BELOW: 0, Side.ABOVE: 0}
    for stream, specs in job.specs(0).items():
        sizes[stream.source] += message_bytes(specs)
    return sizes[Side.BELOW], sizes[Side.ABOVE]


def rate(program: Sequence[str], flags: Sequence[str], folder: Path) -> float:
    """Samples a second of one run."""
    run_dir = Path(tempfile.mkdtemp(dir=folder)) / "run"
    command = [sys.executable, *program, *flags, "--quick-end", f"--run-dir={run_dir}"]
    found: float = run_once(command, run_dir)["samples_per_s"]
    return found


def measure(
    name: str, options: Options, proxy: WanProxy, folder: Path, batch: int
) -> dict[str, Any]:
    """One run near and one far."""
    flags = [*options.flags.split(), *WIRES[name], "--workers=2", "--threads=1"]
    flags += [f"--steps={options.steps}", "--link=zmq-tcp"]
    up_bytes, down_bytes = bytes_of(flags)
    near = rate([str(PIPELINE)], flags, folder)
    link = Link.of(
        up_bytes,
        down_bytes,
        rtt_s=options.rtt_ms / 1000,
        bits_per_s=options.mbit_per_s * 1e6,
    )
    lag, window = link.lag_and_window(batch / near)
    tuned = [*flags, f"--lag={lag}", f"--window={window}"]
    far = rate([*FAR, proxy.control], tuned, folder)
    ceiling = min(near, batch / link.wire_s)
    return {
        "wire": name,
        "up_bytes": up_bytes,
        "down_bytes": down_bytes,
        "lag": lag,
        "window": window,
        "compute": near,
        "link": batch / link.wire_s,
        "far": far,
        "share": far / ceiling,
    }


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Measure and show."""
    console = make_console()
    head = header()
    print_header(head, console)
    results = None if options.json is None else Results(options.json)
    if results is not None:
        results.append(head)
    batch = parse(options.flags.split(), prog="far").batch_size
    rows: list[dict[str, Any]] = []
    with (
        WanProxy(rtt_s=options.rtt_ms / 1000, bits_per_s=options.mbit_per_s * 1e6) as proxy,
        tempfile.TemporaryDirectory(prefix="loco-far-") as folder,
    ):
        for _ in range(options.runs):
            for name in WIRES:
                rows.append(measure(name, options, proxy, Path(folder), batch))
                if results is not None:
                    results.append(rows[-1])
    table = make_table(
        "what crosses", "kB up, down", "lag, window", "compute", "link", "far", "of the lesser"
    )
    for wire in WIRES:
        ours = [row for row in rows if row["wire"] == wire]
        middle = [
            median_and_spread([row[key] for row in ours]) for key in ("compute", "link", "far")
        ]
        share = median_and_spread([row["share"] for row in ours])
        table.add_row(
            wire,
            f"{ours[0]['up_bytes'] / 1e3:.0f}, {ours[0]['down_bytes'] / 1e3:.0f}",
            f"{ours[0]['lag']}, {ours[0]['window']}",
            *(f"{found.median:.0f}" for found in middle),
            f"{share.median:.2f} ({share.lowest:.2f} – {share.highest:.2f})",
        )
    console.print(table)


if __name__ == "__main__":
    from benchmarks.harness import run_command

    run_command(main)
