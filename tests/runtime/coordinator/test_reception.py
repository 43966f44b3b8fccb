"""What the coordinator takes for a worker's message, and what it drops and counts."""

from collections.abc import Iterator
from dataclasses import asdict, replace

import msgpack
import pytest
import zmq

from runtime.coordinator.reception import Left, Reception, Result
from runtime.links.admission import CurveKeys
from runtime.links.tensor_bytes import chunks
from runtime.records.schema import Counters, Report, Seconds, WorkerResult
from runtime.trust.keys import RunKeys

KEYS = RunKeys(b"secret", "run")
TIMEOUT_MS = 10_000
REPORT = Report(
    block=1,
    generation=0,
    state="forward",
    seconds=Seconds(),
    queue_depth=0,
    rss_bytes=1,
    dropped_reports=0,
    refused=0,
    result_sha256="",
    records=(),
)
RESULT = WorkerResult(
    block=1,
    generation=0,
    seconds=Seconds(),
    steady=None,
    peak_rss_bytes=1,
    first_step_t=None,
    last=None,
    counters=Counters(),
    staleness={"tie_up": {"1": 2}},
    digests={"a": "b"},
)


def packed(record: Report | WorkerResult, **changes: object) -> bytes:
    return msgpack.packb(asdict(record) | changes)


class Desk:
    """A reception, and workers that speak to it."""

    def __init__(self, address: str) -> None:
        self.context = zmq.Context()
        self.reception = Reception(self.context, address, keys=KEYS, num_workers=3)
        self.workers: list[zmq.Socket[bytes]] = []

    def worker(
        self, block: int, *, identity: str | None = None, keys: RunKeys = KEYS
    ) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IDENTITY, (identity or f"{block}/0").encode())
        if self.reception.address.startswith("tcp"):
            CurveKeys(keys.worker(block), server=keys.coordinator.public).show(socket, "")
        socket.connect(self.reception.address)
        self.workers.append(socket)
        return socket

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.reception.close()
        self.context.term()


@pytest.fixture(params=["ipc", "tcp"])
def desk(request, tmp_path) -> Iterator[Desk]:
    address = f"ipc://{tmp_path}/here" if request.param == "ipc" else "tcp://127.0.0.1:*"
    desk = Desk(address)
    yield desk
    desk.close()


def test_messages_of_a_worker_are_heard(desk):
    worker = desk.worker(1)
    worker.send_multipart([b"report", b"1", packed(REPORT)])
    worker.send_multipart([b"result", b"1", packed(RESULT), b"some ", b"weights"])
    worker.send(b"left")
    heard = []
    while len(heard) < 3:
        heard += [found.said for found in desk.reception.take(TIMEOUT_MS)]
    assert heard == [REPORT, Result(RESULT, b"some weights"), Left(1)]
    assert desk.reception.num_refused == 0


def test_message_may_be_larger_than_a_frame(desk):
    """A stranger's frame has a bound; a worker with many tensors says more than fits into one."""
    large = replace(RESULT, digests={f"tensor {n}": "0" * 64 for n in range(10_000)})
    frames = list(chunks(packed(large)))
    assert len(frames) > 1
    count = str(len(frames)).encode()
    desk.worker(1).send_multipart([b"result", count, *frames, b"weights"])
    assert [found.said for found in desk.reception.take(TIMEOUT_MS)] == [Result(large, b"weights")]


def test_worker_hears_what_it_is_told(desk):
    worker = desk.worker(1)
    worker.send_multipart([b"report", b"1", packed(REPORT)])
    (heard,) = desk.reception.take(TIMEOUT_MS)
    desk.reception.ask_for_result(heard.identity)
    desk.reception.let_go(heard.identity)
    assert [worker.recv_multipart() for _ in range(2)] == [[b"hand-in"], [b"leave"]]


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"bye"],
        [b"left", b"now"],
        [b"report"],
        [b"report", packed(REPORT)],
        [b"report", b"one", packed(REPORT)],
        [b"report", b"2"],
        [b"report", b"-1", packed(REPORT)],
        [b"report", b"1", b"\xc1"],
        [b"report", b"1", b""],
        [b"report", b"1", msgpack.packb(17)],
        [b"report", b"1", msgpack.packb([1, 2])],
        [b"report", b"1", msgpack.packb({1: 2})],
        [b"report", b"1", b"\x91" * 100_000],
        [b"report", b"1", packed(REPORT), b"weights"],
        [b"report", b"1", packed(REPORT, block=2)],
        [b"report", b"1", packed(REPORT, generation=1)],
        [b"report", b"1", packed(REPORT, block="1")],
        [b"report", b"1", packed(REPORT, records=[{"event": "x"}])],
        [b"report", b"1", packed(REPORT, records=[17])],
        [b"report", b"1", packed(REPORT, seconds=None)],
        [b"report", b"1", packed(REPORT, rss_bytes=1.5)],
        [b"report", b"1", packed(REPORT, more=1)],
        [b"result", b"1", packed(RESULT, staleness={"tie_up": {"1": "x"}})],
        [b"result", b"1", packed(RESULT, digests=[])],
        [b"result", b"1", packed(RESULT, counters={})],
        [b"result", b"1", packed(replace(RESULT, block=0)), b"weights"],
    ],
)
def test_what_is_no_message_is_dropped_and_counted(desk, frames):
    worker = desk.worker(1)
    worker.send_multipart(frames)
    worker.send_multipart([b"report", b"1", packed(REPORT)])
    assert [found.said for found in desk.reception.take(TIMEOUT_MS)] in ([REPORT], [])
    list(desk.reception.take(100))
    assert desk.reception.num_refused == 1


@pytest.mark.parametrize("identity", ["0/0", "2/0", "9/0", "-1/0", "1", "1/0/0", "x/y", "1/0x"])
def test_worker_that_says_it_is_another_is_not_heard(desk, identity):
    desk.worker(1, identity=identity).send_multipart([b"report", b"1", packed(REPORT)])
    assert list(desk.reception.take(2000)) == []
    assert desk.reception.num_refused == 1


@pytest.mark.parametrize("keys", [RunKeys(b"guess", "run"), RunKeys(b"secret", "earlier run")])
def test_stranger_on_the_network_is_not_heard(keys):
    desk = Desk("tcp://127.0.0.1:*")
    desk.worker(1, keys=keys).send_multipart([b"report", b"1", packed(REPORT)])
    assert list(desk.reception.take(1000)) == []
    desk.worker(2).send_multipart([b"report", b"1", packed(replace(REPORT, block=2))])
    assert [found.said.block for found in desk.reception.take(TIMEOUT_MS)] == [2]
    desk.close()


def test_next_generation_takes_its_name_over(desk):
    """One that has died may still be connected."""
    for _ in range(2):
        desk.worker(1).send_multipart([b"report", b"1", packed(REPORT)])
        assert [found.said for found in desk.reception.take(TIMEOUT_MS)] == [REPORT]


def test_worker_that_speaks_for_another_is_not_heard():
    """Its key says who it is, whatever its name and its message say."""
    desk = Desk("tcp://127.0.0.1:*")
    said = packed(replace(REPORT, block=0))
    desk.worker(1, identity="0/0").send_multipart([b"report", b"1", said])
    assert list(desk.reception.take(2000)) == []
    assert desk.reception.num_refused == 1
    desk.close()
