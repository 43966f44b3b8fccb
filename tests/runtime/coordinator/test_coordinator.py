"""What a coordinator decides: to announce or take over, whom to ask, in which order it ends."""

import os
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import msgpack
import pytest
import safetensors.torch
import torch

from runtime.coordinator import coordinator as module
from runtime.coordinator.coordinator import Coordinator
from runtime.faults.plan import parse
from runtime.program import DONE, NOT_STARTED, REFUSED, Start
from runtime.records.recorder import NotWritten
from runtime.records.schema import Counters, Report, Seconds, StepRecord, WorkerResult
from runtime.rendezvous import Announcement

NUM_STEPS = 12
Message = list[bytes]


def step(block: int, number: int) -> StepRecord:
    return StepRecord(
        t=0.0,
        block=block,
        pid=1,
        generation=0,
        step=number,
        loss=1.0,
        probe_top1=0.5,
        samples_per_s=10.0,
        bad_steps=0,
    )


def report(block: int, *, steps: Sequence[int] = (), finished: bool = False) -> Message:
    said = Report(
        block=block,
        generation=0,
        state="forward",
        seconds=Seconds(compute_s=1.0),
        queue_depth=0,
        rss_bytes=0,
        dropped_reports=0,
        finished=finished,
        records=tuple(step(block, number) for number in steps),
    )
    return [f"{block}/0".encode(), msgpack.packb(asdict(said))]


def result(block: int, *, last: StepRecord | None = None) -> Message:
    said = WorkerResult(
        block=block,
        generation=0,
        seconds=Seconds(),
        steady=None,
        peak_rss_bytes=0,
        first_step_t=None,
        last=last,
        counters=Counters(),
        staleness={},
        digests={},
    )
    weights = safetensors.torch.save({f"unit{block}": torch.tensor([float(block)])})
    return [f"{block}/0".encode(), msgpack.packb(asdict(said)), weights]


class Socket:
    """Each wait for a poll brings the next batch of the script; behind the last it fails."""

    def __init__(self, script: Sequence[list[Message]]) -> None:
        self.script = deque(script)
        self.here: deque[Message] = deque()
        self.sent: list[Message] = []

    def poll(self, timeout_ms: int) -> bool:
        if timeout_ms:
            assert self.script, "the coordinator waits for ever"
            self.here.extend(self.script.popleft())
        return bool(self.here)

    def recv_multipart(self) -> Message:
        return self.here.popleft()

    def send_multipart(self, frames: Message) -> None:
        self.sent.append(frames)

    def close(self) -> None:
        pass


class Case:
    """A coordinator of two workers; what it does to others is noted in `order`."""

    def __init__(self, tmp_path: Path) -> None:
        self.order: list[str] = []
        self.finished_with: dict[str, object] = {}
        self.recorded: list[StepRecord] = []
        self.disk_is_full = False
        self._path = tmp_path

    # What a recorder and a rendezvous offer.

    def add(self, records: Sequence[StepRecord]) -> None:
        self.recorded += records

    def write_weights(self, weights, **_) -> None:
        if self.disk_is_full:
            raise NotWritten("no room")
        self.order.append("weights " + " ".join(sorted(weights)))

    def finish(self, job, results, weights, **facts) -> None:
        self.order.append("summary")
        self.finished_with = facts | {"results": results}

    def mark_finished(self) -> None:
        self.order.append("workers may leave")

    @property
    def run_dir(self) -> SimpleNamespace:
        return SimpleNamespace(path=self._path)

    def run(
        self, *script: list[Message], faults: str = "", start: Start | None = None
    ) -> Coordinator:
        """Run a coordinator to its end, given what each of its polls brings."""
        job = SimpleNamespace(
            num_workers=2,
            num_steps=NUM_STEPS,
            batch_size=4,
            cores=1,
            faults=parse(faults),
            notes=["it is a fake"],
            unit_names=lambda k: ([f"unit{k}"], []),
        )
        self.socket = Socket(script)
        program = SimpleNamespace(load=lambda _: job, started_t=0.0)
        phases = lambda phase, *, takes_s=0.0: None  # noqa: E731
        coordinator = Coordinator(
            program, Announcement(job_text=""), self, self.socket, start or Start(), phases
        )
        coordinator.run(
            self,
            gathered=lambda: self.order.append("all results are here"),
            ended=lambda: self.order.append("the end is told"),
        )
        return coordinator

    @property
    def asked(self) -> list[str]:
        """Who was asked to hand in."""
        for _, order in self.socket.sent:
            assert msgpack.unpackb(order) == {"kind": "hand-in"}
        return [identity.decode() for identity, _ in self.socket.sent]


@pytest.fixture
def case(tmp_path, monkeypatch) -> Case:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return Case(tmp_path)


# The end ----------------------------------------------------------------------------------------


def test_weights_are_written_first_and_workers_leave_last(case):
    case.run([result(1)], [result(0)])
    assert case.order == [
        "all results are here",
        "weights unit0 unit1",
        "summary",
        "workers may leave",
        "the end is told",
    ]
    assert [found.block for found in case.finished_with["results"]] == [0, 1]


def test_workers_do_not_leave_before_the_weights_are_written(case):
    case.disk_is_full = True
    with pytest.raises(NotWritten):
        case.run([result(0), result(1)])
    assert case.order == ["all results are here"]


def test_finished_workers_are_asked_until_they_hand_in(case):
    """A result may be lost with the coordinator that asked for it, or with the worker."""
    case.run(
        [report(0), report(1, finished=True)],
        [report(1, finished=True)],
        [result(1), report(1, finished=True), report(0, finished=True)],
        [result(0)],
    )
    assert case.asked == ["1/0", "1/0", "0/0"]


def test_results_without_a_step_have_the_last_one_heard_of(case):
    """A worker that died behind its last step hands in by a generation that had none to run."""
    case.run([report(0, steps=[10, 11]), report(1)], [result(0), result(1, last=step(1, 11))])
    assert [found.last.step for found in case.finished_with["results"]] == [11, 11]
    assert [record.step for record in case.recorded] == [10, 11]


@pytest.mark.parametrize(
    ("hung_in", "told"),
    [("evaluating: unit a", "it hung while evaluating: unit a"), ("writing the weights", "")],
)
def test_evaluation_that_has_hung_is_not_tried_again(case, hung_in, told):
    case.run([result(0), result(1)], start=Start(generation=1, hung_in=hung_in))
    assert case.finished_with["not_evaluated"] == told


def test_job_is_described_by_the_first_coordinator_alone(case, capsys):
    case.run([result(0), result(1)])
    assert "2 workers, 12 steps of 4 samples: unit0 | unit1" in capsys.readouterr().out
    case.run([result(0), result(1)], start=Start(generation=1))
    assert "2 workers" not in capsys.readouterr().out


# Its own death, by plan -------------------------------------------------------------------------


def test_coordinator_kill_counts_the_lowest_workers_steps_once(case, monkeypatch):
    killed: list[int] = []

    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        killed.append(len(case.recorded))

    monkeypatch.setattr(module.os, "kill", kill)
    case.run(
        [report(1, steps=[7]), report(0, steps=[4])],
        [report(0, steps=[5])],
        [report(0, steps=[6])],
        [result(0), result(1)],
        faults="coordinator-kill@5",
    )
    assert killed == [3], "behind the third record, which is the lowest worker's step 5"


# To begin, to take over, or neither -------------------------------------------------------------


class Rendezvous:
    """The announcement that lies there, if one does."""

    def __init__(self, announced: Announcement | None = None, *, is_finished: bool = False) -> None:
        self.announced = announced
        self.is_finished = is_finished

    def recall_announcement(self) -> Announcement | None:
        return self.announced

    def announce(self, announcement: Announcement) -> None:
        self.announced = announcement


@pytest.fixture
def begin(monkeypatch):
    """Begin a coordinator; `announce` is what that comes to, or what it raises."""

    def begin(rendezvous: Rendezvous, *, generation: int = 0, announce: object = "announced"):
        def announced(program, rendezvous, tell):
            if isinstance(announce, Exception):
                raise announce
            return (Announcement(job_text="new"), announce, "socket")

        monkeypatch.setattr(module, "announce", announced)
        monkeypatch.setattr(module, "recall", lambda program, found: (found, "recalled", "socket"))
        program = SimpleNamespace(name="loco")
        return module._begin(program, rendezvous, Start(generation=generation), lambda *_: None)

    return begin


JOB = Announcement(job_text="old")


def test_first_generation_announces_whatever_lies_there(begin):
    assert begin(Rendezvous(JOB))[1] == "announced"


def test_later_generation_takes_over_what_was_announced(begin):
    assert begin(Rendezvous(JOB), generation=1) == (JOB, "recalled", "socket")


def test_later_generation_announces_if_the_first_could_not(begin):
    assert begin(Rendezvous(None), generation=1)[1] == "announced"


def test_later_generation_of_a_finished_job_has_nothing_to_do(begin):
    assert begin(Rendezvous(JOB, is_finished=True), generation=1) == DONE


@pytest.mark.parametrize("end", [REFUSED, NOT_STARTED, DONE])
def test_later_generation_ends_as_the_refusal_before_it(begin, end):
    assert begin(Rendezvous(Announcement(no_job=end)), generation=1) == end


@pytest.mark.parametrize(
    ("error", "end", "told"),
    [
        (ValueError("lr -1 can't be"), REFUSED, "loco: error: lr -1 can't be\n"),
        (RuntimeError("boom"), NOT_STARTED, "loco: error: the job could not begin: boom\n"),
    ],
)
def test_job_that_can_not_begin_is_announced_as_none(begin, capsys, error, end, told):
    rendezvous = Rendezvous(None)
    assert begin(rendezvous, announce=error) == end
    assert rendezvous.announced == Announcement(no_job=end)
    err = capsys.readouterr().err
    assert err.endswith(told)
    assert ("Traceback" in err) == (end == NOT_STARTED)
