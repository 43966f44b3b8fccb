"""Messages of the runtime as a stranger makes them who has read its source.

Owns what they say. What the stranger needs to know of a run is in its announcement, which anybody
can read; what can't be read there is made up.
"""

import json
import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import msgpack
import safetensors.torch
import torch

from launch.job import LocalLearningJob
from launch.resolve import restore
from runtime.core.messages import Ack, Hello, Message, Stop
from runtime.core.plan import Stream
from runtime.links.codec import encode, fingerprint
from runtime.links.guards import Checksums
from runtime.records.schema import Counters, Report, Seconds, WorkerResult

FAR_GENERATION = 10**6


@dataclass(frozen=True)
class Announced:
    """What the raw bytes of an announcement say, as far as they can be read."""

    raw: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The text within the bytes, whatever seals it."""
        match = re.search(rb"\{.*\}", self.raw, re.DOTALL)
        try:
            found = json.loads(match[0]) if match else {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def model(self) -> bytes:
        """The name of the network, where it is configured."""
        match = re.search(rb'model = \\*"([^"\\]+)', self.raw)
        return match[1] if match else b""

    @property
    def run_dir(self) -> bytes:
        return str(self.fields.get("run_dir", "")).encode()

    @property
    def coordinator(self) -> str:
        """Its address, "" if it can't be read."""
        match = re.search(rb'tcp://[^"\\]+:\d+', self.raw)
        return match[0].decode() if match else ""

    def edge(self, block_index: int) -> int:
        """The fingerprint of the edge above a block: of what a header must be to be heard."""
        run_id, text = self.fields.get("run_id"), self.fields.get("job_text")
        if not run_id or not text:
            return secrets.randbits(64)
        return fingerprint(run_id, LocalLearningJob(restore(text)).specs(block_index))


def far_hello(edge: int) -> bytes:
    """A neighbour of a generation that no keeper has started."""
    return _header(Hello(generation=FAR_GENERATION, to=0, asks=True, wants=_wants()), edge)


def stop(step: int, edge: int) -> bytes:
    return _header(Stop(generation=0, to=0, step=step), edge)


def _header(message: Message, edge: int) -> bytes:
    """With the checksum that anyone can make; for a MAC a stranger lacks the key."""
    return encode(message, Checksums(edge, covers_tensors=False), edge=edge)


def _wants() -> dict[Stream, int]:
    return {Stream.TIE_DOWN: 0}


def well_formed(edge: int) -> Iterator[bytes]:
    """Headers that pass all checks of form, without end; they say what was true long ago."""
    hello = _header(Hello(generation=0, to=0, asks=False, wants=_wants()), edge)
    ack = Ack(stream=Stream.ACTIVATION, generation=0, to=0, expected=0, released=0, durable=0)
    while True:
        yield hello
        yield _header(ack, edge)


def result(block_index: int) -> list[bytes]:
    """A worker's result with weights of the stranger's."""
    said = WorkerResult(
        block=block_index,
        generation=0,
        seconds=Seconds(compute_s=1.0),
        steady=None,
        peak_rss_bytes=1,
        first_step_t=None,
        last=None,
        counters=Counters(),
        staleness={},
        digests={f"{block_index}": "0" * 64},
    )
    weights = {f"{block_index}.layer.weight": torch.full((256, 256), 666.0)}
    return [b"result", msgpack.packb(asdict(said)), safetensors.torch.save(weights)]


def report(block_index: int) -> list[bytes]:
    """A worker's report, as it comes twice a second."""
    said = Report(
        block=block_index,
        generation=0,
        state="training",
        seconds=Seconds(),
        queue_depth=0,
        rss_bytes=math.ceil(2e8),
        dropped_reports=0,
        refused=0,
        result_sha256="",
        records=(),
    )
    return [b"report", msgpack.packb(asdict(said))]
