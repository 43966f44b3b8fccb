"""Forged messages are such as the runtime takes from its own, and announcements are read raw."""

import json
import random
from itertools import islice

import msgpack
import pytest
import safetensors.torch

from benchmarks.security import forged, zmtp
from benchmarks.security.earlier import Earlier
from benchmarks.security.frames import ENDS_A_CONNECTION, SORTS, batch, real_frames
from runtime.core.messages import Hello, Stop
from runtime.links.codec import decode
from runtime.links.guards import Checksums
from runtime.records.schema import Report, WorkerResult, from_dict

ANNOUNCED = {
    "job_text": json.dumps({"config": 'seed = 0\nmodel = "mlp"\n'}),
    "run_id": "12ab",
    "run_dir": "/tmp/a run",
    "coordinator": "tcp://127.0.0.1:5000",
}


@pytest.mark.parametrize("seal", [b"", b"\x8f" * 32])
def test_announcement_is_read_whatever_seals_it(seal):
    found = forged.Announced(seal + json.dumps(ANNOUNCED).encode())
    assert found.model == b"mlp"
    assert found.run_dir == b"/tmp/a run"
    assert found.coordinator == "tcp://127.0.0.1:5000"


@pytest.mark.parametrize("raw", [b"", b"junk", b"{junk}", b"[1]", b"\xff" * 40])
def test_announcement_that_says_nothing_is_made_up(raw):
    found = forged.Announced(raw)
    assert (found.model, found.run_dir, found.coordinator) == (b"", b"", "")
    assert isinstance(found.edge(0), int)


def test_words_are_such_as_an_edge_takes():
    guard = Checksums(7, covers_tensors=False)
    hello = decode(forged.far_hello(7), guard, edge=7)
    assert isinstance(hello, Hello)
    assert hello.generation == forged.FAR_GENERATION
    assert decode(forged.stop(3, 7), guard, edge=7) == Stop(generation=0, to=0, step=3)
    assert all(decode(header, guard, edge=7) for header in islice(forged.well_formed(7), 4))


def test_result_and_report_are_such_as_the_coordinator_takes():
    kind, said, weights = forged.result(1)
    assert kind == b"result"
    assert from_dict(WorkerResult, msgpack.unpackb(said)).block == 1
    assert safetensors.torch.load(weights)
    assert from_dict(Report, msgpack.unpackb(forged.report(2)[1])).block == 2


def test_batch_has_all_sorts_and_a_huge_one_last():
    earlier = Earlier(streams={"edge": [zmtp.greeting("NULL") + zmtp.frame(b"x" * 20)]})
    real = real_frames(earlier)
    assert real == [zmtp.frame(b"x" * 20)]
    piece, counts = batch(random.Random(1), real, 200)
    assert sum(counts.values()) == 200
    assert all(counts[sort] for sort in SORTS)
    assert counts[ENDS_A_CONNECTION] == 1
    frames = zmtp.split_frames(bytes(zmtp.GREETING_BYTES) + piece)
    assert len(frames) == 199, "all but the huge one are whole"
    assert zmtp.frame(b"x" * 20) in frames


def test_without_a_recording_frames_are_such_as_the_code_makes():
    frames = real_frames(Earlier())
    assert frames
    assert all(zmtp.split_frames(bytes(64) + frame) for frame in frames)
