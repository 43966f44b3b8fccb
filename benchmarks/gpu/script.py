"""One script for a quarter of an hour with a GPU: every claim that a CPU can't prove.

    python -m benchmarks.gpu --json gpu.jsonl      some minutes on one GPU
    python -m benchmarks.gpu --dry-run             the same parts, small, on the CPU
    python -m benchmarks.gpu --needs               what this machine lacks for it

Each part is a line of JSON as soon as it has ended. One that fails, or has a process that takes too
long, says so and is no obstacle to the next.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.faults.case import Job, run_case, run_reference
from benchmarks.harness import (
    ROOT,
    Results,
    TextList,
    header,
    make_console,
    make_table,
    print_header,
)
from benchmarks.memory.peaks import MALLOC
from launch.config import ConfigError
from runtime.faults.plan import Fault

Part = Callable[["Options", Path], dict[str, Any]]
TIMEOUT_S = 180.0  # of a process
STEPS = 24
KILLS = 10
WORKERS = 3  # of the job that is killed
MOST_OFF = 1.5  # how far a plan may be off, either way; on a CPU it is not judged: blocks are small


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which parts, and where."""

    dry_run: bool = False
    """Small, and on the CPU: shows that the script runs."""
    only: TextList = ()
    """Of tests, step, bits, kills, links, memory; without it all."""
    json: Path | None = None
    """File that gets a JSON line a part."""

    @property
    def device(self) -> str:
        return "cpu" if self.dry_run else "cuda"

    @property
    def job(self) -> tuple[str, ...]:
        """The flags of the jobs that are compared."""
        small = ("--model=resnet18-cifar-w8", "--data=synthetic:3x16x16x64", "--batch-size=8")
        whole = ("--model=resnet18-cifar", "--data=synthetic:3x32x32x512", "--batch-size=128")
        chosen = small if self.dry_run else (*whole, "--precision=bf16", "--channels-last")
        return (
            *chosen,
            f"--device={self.device}",
            f"--steps={STEPS}",
            "--threads=1",
            "--quick-end",
        )


def tests(options: Options, folder: Path) -> dict[str, Any]:
    """The tests that are marked for a GPU; without one each says that it is skipped."""
    del folder
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = _run(command)
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr.strip()[-500:]]
    is_well = done.returncode == 0 and (options.dry_run or " passed" in last[0])
    return {"told": last[0], "wrong": "" if is_well else f"exit code {done.returncode}"}


def _run(
    command: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def step(options: Options, folder: Path) -> dict[str, Any]:
    """A block's step beside a plain loop's."""
    small = ("--model=resnet18-cifar-w8", "--batch-size=8", "--steps=4", "--threads=1")
    whole = ("--model=resnet50", "--image-size=224", "--batch-size=256", "--steps=12")
    file = folder / "step.jsonl"
    command = [sys.executable, "-m", "benchmarks.plain_loop", f"--device={options.device}"]
    command += [*(small if options.dry_run else whole), "--kinds=bf16", f"--json={file}"]
    done = _run(command)
    found = Results(file).read()
    if not found:  # other bits end it with 1, too, but with a record
        return {"wrong": (done.stdout + done.stderr)[-1000:]}
    (record,) = found
    pairs = zip(record["seconds"]["block"], record["seconds"]["loop"], strict=True)
    ratios = sorted(block / loop for block, loop in pairs)
    ratio = ratios[len(ratios) // 2]
    told = f"block to loop {ratio:.3f}, {record['seconds']['block'][-1] * 1000:.0f} ms a step"
    return {**record, "told": told, "wrong": "" if record["same_bits"] else "other bits"}


def bits(options: Options, folder: Path) -> dict[str, Any]:
    """One, two and four workers on the GPU, each beside the sequential program there."""
    rates, differ = [], []
    for workers in (1, 2, 4):
        job = Job(flags=(*options.job, f"--workers={workers}"))
        expected = run_reference(job, folder / f"one-process-{workers}", ())
        found = run_case(job, folder / f"workers-{workers}", ()).summary
        rates.append(found.get("samples_per_s"))
        if found.get("weights_sha256") != expected["weights_sha256"]:
            differ.append(str(workers))
    shown = ", ".join("–" if rate is None else f"{rate:.0f}" for rate in rates)
    return {
        "samples_per_s": rates,
        "told": f"1, 2 and 4 workers: {shown} samples/s",
        "wrong": f"other bits with workers {' '.join(differ)}" if differ else "",
    }


def kills(options: Options, folder: Path) -> dict[str, Any]:
    """Workers are killed in turn: each heals alone, and the bits are those of no fault."""
    faults = [Fault(kind="kill", block=i % WORKERS, step=2 * i + 1) for i in range(KILLS)]
    job = Job(flags=(*options.job, f"--workers={WORKERS}", "--max-worker-restarts=10"))
    expected = run_reference(job, folder / "undisturbed", ())
    outcome = run_case(job, folder / "killed", faults)
    wrong = []
    if outcome.summary.get("weights_sha256") != expected["weights_sha256"]:
        wrong.append("other bits")
    restarts = Counter(restart["block"] for restart in outcome.summary.get("restarts", []))
    if restarts != (expected_restarts := Counter(fault.block for fault in faults)):
        wrong.append(f"restarts {dict(restarts)}, not {dict(expected_restarts)}")
    healed = [outcome.healed_s(fault, index % WORKERS) for index, fault in enumerate(faults)]
    times = sorted(seconds for seconds in healed if seconds is not None)
    if len(times) < len(faults):
        wrong.append(f"{len(faults) - len(times)} never healed")
    wrong += outcome.left_behind
    told = f"{len(times)} healed, after {times[len(times) // 2]:.1f} s" if times else ""
    return {"healed_s": times, "told": told, "wrong": "; ".join(wrong)}


def links(options: Options, folder: Path) -> dict[str, Any]:
    """The same job over each link that can be had on one machine."""
    job = (*options.job, "--workers=2")
    expected = run_reference(Job(flags=job), folder / "one-process", ())
    rates, wrong = {}, []
    for link in ("shm", "zmq-ipc", "zmq-tcp", "gloo"):
        found = run_case(Job(flags=(*job, f"--link={link}")), folder / link, ())
        rates[link] = found.summary.get("samples_per_s")
        if found.summary.get("weights_sha256") != expected["weights_sha256"]:
            wrong.append(f"other bits over {link}" if found.summary else found.text[-500:])
    shown = (f"{link} {rate:.0f}" for link, rate in rates.items() if rate is not None)
    return {
        "samples_per_s": rates,
        "told": f"samples/s: {', '.join(shown)}",
        "wrong": "; ".join(wrong),
    }


def memory(options: Options, folder: Path) -> dict[str, Any]:
    """What the largest of four blocks takes, and one process end to end, beside the plan's word."""
    del folder
    found = {}
    for workers in (4, 1):
        flags = (*options.job, f"--workers={workers}")
        done = _run([sys.executable, "-m", "benchmarks.gpu.block_peaks", *flags], MALLOC)
        if done.returncode:
            return {"wrong": (done.stdout + done.stderr)[-1000:]}
        found[workers] = json.loads(done.stdout)
    blocks, (whole,) = found[4], found[1]
    largest = max(blocks, key=lambda block: int(block["measured"]))
    told = f"largest of 4 blocks {_mb(largest)}, one process end to end {_mb(whole)}"
    ratios = [block["predicted"] / max(1, block["measured"]) for block in (*blocks, whole)]
    is_off = not options.dry_run and not all(1 / MOST_OFF < ratio < MOST_OFF for ratio in ratios)
    wrong = f"predicted {min(ratios):.2f} to {max(ratios):.2f} of measured" if is_off else ""
    return {"blocks": blocks, "end_to_end": whole, "told": told, "wrong": wrong}


def _mb(block: Mapping[str, int]) -> str:
    return f"{block['measured'] / 1e6:.0f} MB ({block['predicted'] / 1e6:.0f} predicted)"


PARTS: dict[str, Part] = {
    "tests": tests,
    "step": step,
    "bits": bits,
    "kills": kills,
    "links": links,
    "memory": memory,
}


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Run all parts and show them."""
    if unknown := [name for name in options.only if name not in PARTS]:
        raise ConfigError(f"only {' '.join(unknown)}; give some of {' '.join(PARTS)}")
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        raise ConfigError("there is no GPU here; give --dry-run to try the script without one")
    console = make_console()
    head = header() | {"gpu": "none" if options.dry_run else torch.cuda.get_device_name(0)}
    print_header(head, console)
    results = None if options.json is None else Results(options.json)
    if results is not None:
        results.append(head)
    table = make_table("part", "s", "what came of it", "what is wrong")
    is_well = True
    for name in options.only or PARTS:
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="loco-gpu-") as folder:
            try:
                found = PARTS[name](options, Path(folder))
            except Exception as error:  # whatever it is, the next part may show something
                found = {"wrong": f"{type(error).__name__}: {error}"[-1000:]}
        took_s = time.monotonic() - began_s
        if results is not None:
            results.append({"part": name, "took_s": took_s, **found})
        is_well = is_well and not found["wrong"]
        table.add_row(name, f"{took_s:.0f}", found.get("told", ""), found["wrong"])
        console.print(f"{name}: {found.get('told', '')} {found['wrong']}", soft_wrap=True)
    console.print()
    console.print(table)
    if not is_well:
        sys.exit(1)
