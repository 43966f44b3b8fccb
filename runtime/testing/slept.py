"""A job whose blocks sleep: what the runtime makes of compute that needs no cores.

Owns the fake blocks and their job. Everything else about such a run is real: processes, links,
messages of the size asked for.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.block import LEFT, Payload, Specs, TensorSpec, message_bytes
from runtime.core.plan import Stream, Window, WorkerPlan
from runtime.program import Facts, Tell
from runtime.records.schema import UnitAccuracy
from runtime.state.checkpoint import Checkpoint
from runtime.testing.sleeper import Sleeper
from runtime.testing.stalls import parse_stalls


@dataclass(frozen=True, kw_only=True)
class SleptConfig:
    """Blocks that sleep `step_s` a step, `forward_share` of it before the activation leaves.

    `slow_block`, if there is one, takes `slow_factor` times as long. `jitter` names stalls in the
    notation of runtime.testing.stalls, which lengthen both parts of a step in proportion.
    """

    workers: int
    steps: int
    step_s: float
    forward_share: float
    activation_bytes: int
    tie_bytes: int
    lag: int
    window: int
    link: str
    snapshot_every: int = 4
    slow_block: int | None = None
    slow_factor: float = 2.0
    jitter: str = ""
    jitter_seed: int = 0

    def __post_init__(self) -> None:
        parse_stalls(self.jitter)
        if self.slow_block is not None and not 0 <= self.slow_block < self.workers:
            last = self.workers - 1
            raise ValueError(
                f"slow block {self.slow_block} does not exist; give one of 0 to {last}"
            )

    def block_s(self, block: int) -> float:
        """Seconds that a block takes for a step without stalls."""
        return self.step_s * (self.slow_factor if block == self.slow_block else 1.0)

    def make_duration_s(self) -> Callable[[int, int], float]:
        """Return the seconds that (block, step) takes, stalls included."""
        stall = parse_stalls(self.jitter, seed=self.jitter_seed)
        return lambda block, step: self.block_s(block) * (1.0 + stall(block, step))

    def to_text(self) -> str:
        """What `load_slept_job` reads."""
        return json.dumps(asdict(self))

    def resolve(self, recorded: str | None, tell: Tell, ranks: Sequence[Facts] | None) -> str:
        """The same; there is nothing to be decided."""
        del recorded, tell, ranks
        return self.to_text()


class SleptTies(NamedTuple):
    up: Payload | None
    down: Payload | None
    absent: bool = False


class SleptBlock:
    """Sleeps where a block would compute; its messages are the same tensors at every step."""

    loss = math.nan
    probe_top1 = math.nan
    num_bad_steps = 0

    def __init__(self, config: SleptConfig, k: int) -> None:
        self._k = k
        self._duration_s = config.make_duration_s()
        self._forward_share = config.forward_share
        self._sleeper = Sleeper()
        # Written to, as real ones are: zeros that nobody wrote are read from one page.
        self._activation = (torch.ones(config.activation_bytes // 4),)
        self._tie = (torch.ones(config.tie_bytes // 4),) if config.tie_bytes else None

    leaving = LEFT

    def expect(self, payload: Payload) -> None:
        """It uses nothing."""

    def will_read(self, memory: Tensor) -> None:
        """It reads nothing."""

    def forward(self, step: int, incoming: Payload | None) -> Payload:
        del incoming
        self._sleeper.sleep(self._duration_s(self._k, step) * self._forward_share)
        return self._activation

    def update(self, step: int) -> SleptTies:
        self._sleeper.sleep(self._duration_s(self._k, step) * (1.0 - self._forward_share))
        return SleptTies(up=self._tie, down=self._tie)

    def apply(self, step: int, from_below: Payload | None, from_above: Payload | None) -> None:
        """Nothing is tied."""

    def home_state(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to load."""


class SleptJob:
    """The runtime.job.Job of slept blocks."""

    batch_size = 1
    threads = 1
    checksum = "auto"
    bind = "127.0.0.1"
    encrypts_tensors = False
    report_every_s = 0.5
    notes = ()
    patience_s = 300.0
    retain_bytes = math.inf
    shares_cores = False  # sleeping needs none
    quick_end = False
    trace = False
    faults = ()
    final_errors = ()

    def __init__(self, config: SleptConfig) -> None:
        self._config = config
        self.num_workers = config.workers
        self.num_steps = config.steps
        self.cores = len(os.sched_getaffinity(0))
        self.link = config.link
        given = {key: value for key, value in asdict(config).items() if value is not None}
        self.config_toml = self.given_toml = "".join(
            f"{k} = {json.dumps(v)}\n" for k, v in given.items()
        )

    def specs(self, edge: int) -> Specs:
        del edge
        activation = (_spec(self._config.activation_bytes),)
        if not self._config.tie_bytes:
            return {Stream.ACTIVATION: activation}
        tie = (_spec(self._config.tie_bytes),)
        return {Stream.ACTIVATION: activation, Stream.TIE_UP: tie, Stream.TIE_DOWN: tie}

    def plan(self, k: int) -> WorkerPlan:
        streams = self.specs(0)
        upward = {stream for stream in streams if stream is not Stream.TIE_DOWN}
        downward = set(streams) - upward
        from_below, from_above = k > 0, k + 1 < self.num_workers
        incoming = (upward if from_below else set()) | (downward if from_above else set())
        outgoing = (upward if from_above else set()) | (downward if from_below else set())
        return WorkerPlan(
            num_steps=self.num_steps,
            lag=self._config.lag,
            incoming={stream: self._window(stream) for stream in streams if stream in incoming},
            outgoing={stream: self._window(stream) for stream in streams if stream in outgoing},
            snapshot_every=self._config.snapshot_every,
        )

    def _window(self, stream: Stream) -> Window:
        size = message_bytes(self.specs(0)[stream])
        down = max(2, self._config.lag + 1)
        messages = down if stream is Stream.TIE_DOWN else self._config.window
        return Window(
            max_messages=messages,
            max_bytes=messages * size,
            message_bytes=size,
            max_retained=2 * (messages + self._config.lag + self._config.snapshot_every),
        )

    def describe(self, k: int, error: Exception) -> str:
        del k
        return str(error)

    def take_device(self, k: int) -> None:
        """It needs none."""

    def build_block(self, k: int, tell: Tell) -> SleptBlock:
        del tell
        return SleptBlock(self._config, k)

    def carry(self, k: int, checkpoint: Checkpoint, tell: Tell) -> tuple[SleptBlock, list[str]]:
        del checkpoint
        return self.build_block(k, tell), []

    def unit_names(self, k: int) -> tuple[list[str], list[str]]:
        return [f"sleep{k}"], []

    def evaluate(self, weights: Mapping[str, Tensor], tell: Tell) -> list[UnitAccuracy]:
        del weights, tell
        return []


def _spec(size_bytes: int) -> TensorSpec:
    return TensorSpec(shape=(size_bytes // 4,), dtype="float32")


def load_slept_job(text: str) -> SleptJob:
    """Make the job that `SleptConfig.to_text` described."""
    return SleptJob(SleptConfig(**json.loads(text)))
