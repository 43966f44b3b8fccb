"""What the simulator must know of this machine, as probes find it.

Owns the probes: copies in memory, a checksum, large messages through the runtime's own link, and
runs of slept blocks with small messages: one worker, which has none; two that wait for each other,
with lag 0; and many, whose processor time tells what a message takes if the machine is busy. So
of all rates that are compared with it later, that of two workers with lag 0 alone has been fitted.
"""

import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
import xxhash
from scipy.optimize import bisect

from benchmarks.harness import run_once
from benchmarks.links.cases import Case, copy, serve
from benchmarks.links.comparison import run as run_link
from benchmarks.scale.network import Machine, Wire
from benchmarks.scale.slept_simulation import (
    StepEnds,
    simulate,
    simulated_step_ends,
    steps_per_s,
)
from runtime.core.messages import Phase
from runtime.links.guards import digest_of
from runtime.testing.slept import SleptConfig

SMALL_BYTES, LARGE_BYTES = 1 << 10, 1 << 26
WARM_UP = 10
"""Steps left out of every rate here: the pipeline fills, and memory is touched for the first
time."""
MANY = 16  # workers
MOST_LATENCY_S = 0.01
SAMPLE_EVERY_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A machine and its links on one host, as the simulator takes them."""

    machine: Machine
    shm: Wire
    zmq_ipc: Wire

    def wire(self, link: str) -> Wire:
        return {"shm": self.shm, "zmq-ipc": self.zmq_ipc}[link]

    def facts(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "Figures":
        """What a record said."""
        return cls(
            machine=Machine(**{k: _as_tuple(v) for k, v in facts["machine"].items()}),
            shm=Wire(**facts["shm"]),
            zmq_ipc=Wire(**facts["zmq_ipc"]),
        )


USUAL = Figures(
    machine=Machine(message_s=7e-5, step_overheads_s=(3e-4,), copy_bytes_per_s=8e9),
    shm=Wire(latency_s=2e-4),
    zmq_ipc=Wire(
        latency_s=2e-4,
        transfer_bytes_per_s=1e9,
        send_bytes_per_s=15e9,
        receive_bytes_per_s=5e9,
        takes_cores=True,
    ),
)
"""What a machine of 2020 takes, roughly, if nothing was measured."""


def latest(records: Sequence[Mapping[str, Any]]) -> Figures:
    """The last figures among a validation's records; if there are none, usual ones."""
    found = [r["figures"] for r in records if "figures" in r]
    return Figures.of_facts(found[-1]) if found else USUAL


def probe(*, steps: int) -> Figures:
    """Measure this machine: some 25 s, and five runs of `steps` steps."""
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    copy_rates = tuple(map(_copy_bytes_per_s, range(1, cores + 1)))
    checksum_rate = _checksum_bytes_per_s()
    flow_rate = _flow_bytes_per_s("zmq-ipc", cores)
    copies = Machine(
        copy_bytes_per_s=copy_rates[0],
        copy_speeds=tuple(rate / copy_rates[0] for rate in copy_rates),
        cores=cores,
    )
    machine = _calibrated(copies, steps=steps)
    shm = Wire(latency_s=_latency_s(machine, steps=steps))
    zmq_ipc = Wire(
        latency_s=shm.latency_s,
        transfer_bytes_per_s=1 / (1 / flow_rate - 1 / copy_rates[-1]),  # without the last copy
        send_bytes_per_s=checksum_rate,
        receive_bytes_per_s=1 / (1 / copy_rates[-1] + 1 / checksum_rate),
        takes_cores=True,
    )
    return Figures(machine=machine, shm=shm, zmq_ipc=zmq_ipc)


def _as_tuple(value: Any) -> Any:
    """What a Machine has instead of JSON's lists."""
    return tuple(value) if isinstance(value, list) else value


def plain(workers: int, steps: int) -> SleptConfig:
    """Slept blocks at full rate, with small messages."""
    return SleptConfig(
        workers=workers,
        steps=steps,
        step_s=0.06,
        forward_share=1 / 3,
        activation_bytes=SMALL_BYTES,
        tie_bytes=SMALL_BYTES,
        lag=1,
        window=2,
        link="shm",
    )


def run_really(config: SleptConfig) -> StepEnds:
    """A real run: for each worker, when it ended each step, in seconds."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        command = [sys.executable, "-m", "benchmarks.scale.slept_run", json.dumps(asdict(config))]
        run_once([*command, str(run_dir)], run_dir)
        lines = (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    return read_step_ends(map(json.loads, lines), config.workers)


def read_step_ends(records: Any, workers: int) -> StepEnds:
    """The ends of steps from a run's metrics, each worker's in their order."""
    ends_s: StepEnds = [[] for _ in range(workers)]
    for record in records:
        if "event" not in record:
            ends_s[record["block"]].append(record["t"])
    return [sorted(own) for own in ends_s]


def _calibrated(machine: Machine, *, steps: int) -> Machine:
    """Find what a message takes, from what many workers use of the processor, and what a step takes
    beside, from one worker alone."""
    many, alone = plain(MANY, steps), plain(1, steps)
    num_works = simulate(many, machine=replace(machine, message_s=1e-9), wire=Wire()).num_works
    with ProcessorMeter() as meter:
        ends_s = run_really(many)
    begin_s, end_s = max(own[WARM_UP - 1] for own in ends_s), min(own[-1] for own in ends_s)
    per_step_s = meter.used_s(begin_s, end_s) / (
        (end_s - begin_s) * steps_per_s(ends_s, warm_up=WARM_UP)
    )
    message_s = per_step_s * steps / num_works
    ends_s = run_really(alone)
    noted_s = (
        len(Phase) + 1 / alone.snapshot_every
    ) * message_s  # the simulation books that itself
    overheads_s = tuple(
        after - before - alone.step_s - noted_s
        for before, after in pairwise(ends_s[0][WARM_UP - 1 :])
    )
    return replace(machine, message_s=message_s, step_overheads_s=overheads_s)


def _latency_s(machine: Machine, *, steps: int) -> float:
    """Find what a small message's way takes: it stands in the way of two workers with lag 0."""
    two = replace(plain(2, steps), lag=0)

    def rate_of(latency_s: float) -> float:
        ends_s = simulated_step_ends(two, machine=machine, wire=Wire(latency_s=latency_s))
        return steps_per_s(ends_s, warm_up=WARM_UP)

    rates = [steps_per_s(run_really(two), warm_up=WARM_UP) for _ in range(3)]
    return fitted_latency_s(rate_of, statistics.median(rates))


def fitted_latency_s(rate_of: Callable[[float], float], rate: float) -> float:
    """The latency with which a rate that falls with it is `rate`; none if even that is slower.

    Raises RuntimeError if it would be over MOST_LATENCY_S.
    """
    if rate_of(0.0) <= rate:
        return 0.0
    if rate_of(MOST_LATENCY_S) > rate:
        raise RuntimeError(
            f"two workers with lag 0 made {rate:.2f} steps a second, which no latency below"
            f" {MOST_LATENCY_S * 1e3:g} ms explains; probe again when less runs beside it"
        )
    return float(bisect(lambda s: rate_of(s) - rate, 0.0, MOST_LATENCY_S, xtol=1e-8))


class ProcessorMeter:
    """What all descendants of this process use of the processor, looked at every SAMPLE_EVERY_S."""

    def __enter__(self) -> Self:
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def used_s(self, begin_s: float, end_s: float) -> float:
        """Seconds used in between, by time.time."""
        times_s, used_s = zip(*self._samples, strict=True)
        begin, end = np.interp([begin_s, end_s], times_s, used_s)
        return float(end - begin)

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            used_s = 0.0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    used_s += times.user + times.system
            self._samples.append((time.time(), used_s))
            is_over = self._ended.wait(SAMPLE_EVERY_S)


def _copy_bytes_per_s(num: int) -> float:
    """What each of so many copies at once gets: they share the memory."""
    sources = [torch.ones(LARGE_BYTES, dtype=torch.uint8) for _ in range(num)]
    rooms = [[torch.ones_like(source) for _ in range(4)] for source in sources]
    with ThreadPoolExecutor(num) as pool:
        rounds = [max(pool.map(copy, sources, rooms, [16] * num)) for _ in range(5)]
    return LARGE_BYTES * 16 / statistics.median(rounds)


def _checksum_bytes_per_s() -> float:
    payload = (torch.ones(LARGE_BYTES, dtype=torch.uint8),)
    began_s = time.perf_counter()
    for _ in range(8):
        digest_of(xxhash.xxh3_64, payload)
    return LARGE_BYTES * 8 / (time.perf_counter() - began_s)


def _flow_bytes_per_s(system: str, num: int) -> float:
    """What each of so many flows of large messages at once gets, by the runtime's own link."""
    barrier = threading.Barrier(num)
    with ThreadPoolExecutor(num) as pool:
        rates = pool.map(lambda _: _one_flow_bytes_per_s(system, barrier), range(num))
        return statistics.mean(rates)


def _one_flow_bytes_per_s(system: str, barrier: threading.Barrier) -> float:
    spawn = multiprocessing.get_context("spawn")
    orders, theirs = spawn.Pipe()
    peer = spawn.Process(target=serve, args=(theirs,), daemon=True)
    peer.start()
    try:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            case = Case(
                system=system,
                size_bytes=LARGE_BYTES,
                num_messages=24,
                window=2,
                where=f"{directory}/flow",
            )
            took_s = run_link(orders, case, lambda: barrier.wait(60))
            return LARGE_BYTES * case.num_messages / took_s
    finally:
        orders.send(None)
        peer.join(60)
