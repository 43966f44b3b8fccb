"""What is seen of a run from outside."""

import json
import socket

import psutil
import pytest

from benchmarks.security.run import BATCH, NUM_WORKERS, Metrics
from benchmarks.security.sight import Sight, find_store, listening, look


def write(path, records, rest=""):
    with path.open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records) + rest)


def records(steps, *, from_t=0.0):
    return [
        {"block": block, "step": step, "t": from_t + step, "pid": 10 + block}
        for step in steps
        for block in range(NUM_WORKERS)
    ]


def test_metrics_are_read_as_they_come(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.read()
    assert metrics.slowest_step == -1
    write(path, records(range(3)), rest='{"block": 0, "st')
    metrics.read()
    assert metrics.slowest_step == 2
    assert metrics.workers == {0: 10, 1: 11, 2: 12}
    write(path, [], rest='ep": 3, "t": 3.0, "pid": 77}\n')
    metrics.read()
    assert metrics.workers[0] == 77
    assert metrics.slowest_step == 2, "the slowest block counts"


def test_rate_is_that_since_the_stranger_came(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, records(range(10)))
    write(path, records(range(10, 20), from_t=100.0))
    metrics = Metrics(path)
    metrics.read()
    assert metrics.samples_per_s(105.0) == pytest.approx(BATCH)
    assert metrics.samples_per_s(1e9) is None


def test_sight_survives_its_way_to_the_stranger():
    sight = Sight(
        store=("127.0.0.1", 1),
        coordinator=(("127.0.0.1", 2),),
        edges={0: (("127.0.0.1", 3),), 1: (("::1", 4),)},
        ipc=("@loco-1",),
        run_dir="/tmp/run",
        earlier="/tmp/earlier",
    )
    assert Sight.from_text(sight.to_text()) == sight
    assert sight.targets == [("127.0.0.1", 2), ("127.0.0.1", 3), ("::1", 4)]


def test_listening_sockets_are_told_apart_by_whose_they_are(tmp_path):
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        address = opened.getsockname()
        this = psutil.Process()
        assert address in listening(this)
        worker = look([this], {2: this.pid}, launcher=0, store=("h", 1), run_dir=tmp_path)
        assert address in worker.edges[2]
        assert address not in worker.coordinator
        other = look([this], {}, launcher=0, store=("h", 1), run_dir=tmp_path)
        assert address in other.coordinator
        own = look([this], {}, launcher=this.pid, store=("h", 1), run_dir=tmp_path)
        assert own.targets == [], "the launcher's sockets are not the run's"


def test_store_is_not_known_before_there_is_a_rank():
    assert find_store([]) is None
