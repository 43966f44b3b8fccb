"""What the simulator must know of this machine, each figure measured by a probe of its own.

Owns the probes: a copy in memory, a checksum, the smallest word and a large message through the
runtime's own links, and two runs of slept blocks: one worker, which has no messages, and two that
wait for each other's, with small ones and lag 0. Nothing else is fitted to what is then compared.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.link_cases import Case, copy, serve
from benchmarks.links import run as run_link
from benchmarks.throughput_cases import run_once
from runtime.core.messages import Phase
from runtime.links.message import checksum
from runtime.testing.network import Machine, Wire
from runtime.testing.slept import SleptConfig
from runtime.testing.slept_simulation import StepEnds, simulated_step_ends, steps_per_s

SMALL_BYTES, LARGE_BYTES = 1 << 10, 1 << 26
WARM_UP = 10
"""Steps left out of every rate here: the pipeline fills, and memory is touched for the first
time."""
NUM_PINGS = 200
MOST_MESSAGE_S = 0.01


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
            machine=Machine(**facts["machine"]),
            shm=Wire(**facts["shm"]),
            zmq_ipc=Wire(**facts["zmq_ipc"]),
        )


USUAL = Figures(
    machine=Machine(message_s=1e-4, hand_over_s=1e-4, copy_bytes_per_s=8e9),
    shm=Wire(latency_s=2e-4),
    zmq_ipc=Wire(
        latency_s=2e-4,
        transfer_bytes_per_s=1e9,
        send_bytes_per_s=15e9,
        receive_bytes_per_s=5e9,
        takes_cores=True,
    ),
)
"""What a machine of 2020 takes, roughly, where nothing was measured."""


def latest(records: Sequence[Mapping[str, Any]]) -> Figures:
    """The figures among a validation's records; where there are none, usual ones."""
    found = next((r["figures"] for r in records if "figures" in r), None)
    return USUAL if found is None else Figures.of_facts(found)


def probe(*, steps: int) -> Figures:
    """Measure this machine: some 15 s and two runs of `steps` steps."""
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    copy_rate, checksum_rate = _copy_bytes_per_s(cores), _checksum_bytes_per_s()
    shm = Wire(latency_s=_one_way_s("shm", SMALL_BYTES, NUM_PINGS))
    receive_rate = 1 / (1 / copy_rate + 1 / checksum_rate)
    zmq_ipc = Wire(
        latency_s=_one_way_s("zmq-ipc+payload", SMALL_BYTES, NUM_PINGS),
        transfer_bytes_per_s=LARGE_BYTES / _message_s("zmq-ipc", LARGE_BYTES, 16, window=2),
        send_bytes_per_s=checksum_rate,
        receive_bytes_per_s=receive_rate,
        takes_cores=True,
    )
    machine = _calibrated(Machine(copy_bytes_per_s=copy_rate, cores=cores), shm, steps=steps)
    return Figures(machine=machine, shm=shm, zmq_ipc=zmq_ipc)


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
        command = [sys.executable, "-m", "benchmarks.slept", json.dumps(asdict(config))]
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


def solve(rate_of: Callable[[float], float], rate: float, most: float) -> float:
    """The least argument in 0..most at which a falling function comes down to `rate`."""
    low, high = 0.0, most
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if rate_of(middle) > rate else (low, middle)
    return high


def _calibrated(machine: Machine, wire: Wire, *, steps: int) -> Machine:
    """Find what a phase and a message take: one worker shows the former, and two the latter where
    it stands in their way, which it does not with a lag."""
    alone, two = plain(1, steps), replace(plain(2, steps), lag=0)
    step_s = 1 / steps_per_s(run_really(alone), warm_up=WARM_UP)
    num_hand_overs = len(Phase) + 1 / alone.snapshot_every
    hand_over_s = max(0.0, step_s - alone.step_s) / num_hand_overs
    machine = replace(machine, hand_over_s=hand_over_s)

    def rate_of(message_s: float) -> float:
        guess = replace(machine, message_s=message_s)
        ends_s = simulated_step_ends(two, machine=guess, wire=wire)
        return steps_per_s(ends_s, warm_up=WARM_UP)

    measured = steps_per_s(run_really(two), warm_up=WARM_UP)
    return replace(machine, message_s=solve(rate_of, measured, MOST_MESSAGE_S))


def _copy_bytes_per_s(cores: int) -> float:
    """What one copy gets while every core makes one: they share the memory."""
    sources = [torch.ones(LARGE_BYTES, dtype=torch.uint8) for _ in range(cores)]
    rooms = [[torch.ones_like(source) for _ in range(4)] for source in sources]
    with ThreadPoolExecutor(cores) as pool:
        rounds = [max(pool.map(copy, sources, rooms, [16] * cores)) for _ in range(5)]
    return LARGE_BYTES * 16 / statistics.median(rounds)


def _checksum_bytes_per_s() -> float:
    payload = (torch.ones(LARGE_BYTES, dtype=torch.uint8),)
    began_s = time.perf_counter()
    for _ in range(8):
        checksum(payload)
    return LARGE_BYTES * 8 / (time.perf_counter() - began_s)


def _one_way_s(system: str, size: int, num_messages: int) -> float:
    """Half the time from a message to its acknowledgement, by the runtime's own link."""
    return _message_s(system, size, num_messages, window=1) / 2


def _message_s(system: str, size: int, num_messages: int, *, window: int) -> float:
    """Seconds a message of a flow with so many under way."""
    spawn = multiprocessing.get_context("spawn")
    orders, theirs = spawn.Pipe()
    peer = spawn.Process(target=serve, args=(theirs,), daemon=True)
    peer.start()
    try:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            case = Case(
                system=system,
                size_bytes=size,
                num_messages=num_messages,
                window=window,
                where=f"{directory}/flow",
            )
            return run_link(orders, case) / num_messages
    finally:
        orders.send(None)
        peer.join(60)
