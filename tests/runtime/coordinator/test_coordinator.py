"""What a coordinator decides: to announce or take over, whom to ask, in which order it ends."""

import hashlib
import os
import signal
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from runtime.coordinator import coordinator as module
from runtime.coordinator.coordinator import Coordinator
from runtime.coordinator.reception import Heard, Left, Result
from runtime.faults.plan import parse
from runtime.program import DONE, NOT_STARTED, REFUSED, Start
from runtime.records.recorder import NotWritten
from runtime.records.schema import Counters, Report, Seconds, StepRecord, WorkerResult
from runtime.rendezvous import Announcement

NUM_STEPS = 12


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


def weights_of(block: int) -> bytes:
    return safetensors.torch.save({f"unit{block}": torch.tensor([float(block)])})


def report(
    block: int,
    *,
    steps: Sequence[int] = (),
    finished: bool = False,
    generation: int = 0,
    refused: int = 0,
) -> Heard:
    said = Report(
        block=block,
        generation=generation,
        state="forward",
        seconds=Seconds(compute_s=1.0),
        queue_depth=0,
        rss_bytes=0,
        dropped_reports=0,
        refused=refused,
        result_sha256=hashlib.sha256(weights_of(block)).hexdigest() if finished else "",
        records=tuple(step(block, number) for number in steps),
    )
    return Heard(said, f"{block}/{generation}".encode())


def result(
    block: int,
    *,
    last: StepRecord | None = None,
    generation: int = 0,
    weights: bytes | None = None,
) -> Heard:
    said = WorkerResult(
        block=block,
        generation=generation,
        seconds=Seconds(),
        steady=None,
        peak_rss_bytes=0,
        first_step_t=None,
        last=last,
        counters=Counters(),
        staleness={},
        digests={},
    )
    weights = weights_of(block) if weights is None else weights
    return Heard(Result(said, weights), f"{block}/{generation}".encode())


def left(block: int) -> Heard:
    return Heard(Left(block), f"{block}/0".encode())


DONE_0, DONE_1 = report(0, finished=True), report(1, finished=True)


class FakeReception:
    """Each turn brings the next batch of the script; behind the last it fails, unless the workers
    may leave: then they do."""

    num_refused = 3

    def __init__(self, script: Sequence[list[Heard]]) -> None:
        self.script = deque(script)
        self.asked: list[str] = []
        self.let_gone: list[str] = []
        self.is_closed = False

    def take(self, timeout_ms: int) -> list[Heard]:
        if not self.script and self.let_gone:
            return [left(0), left(1)]
        assert self.script, "the coordinator waits for ever"
        return self.script.popleft()

    def ask_for_result(self, identity: bytes) -> None:
        self.asked.append(identity.decode())

    def let_go(self, identity: bytes) -> None:
        self.let_gone.append(identity.decode())

    def close(self) -> None:
        self.is_closed = True


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

    has_finished_before = False

    def is_finished(self) -> bool:
        return self.has_finished_before

    def mark_finished(self) -> None:
        self.order.append("workers may leave")

    def repeat(self) -> None:
        """What was said is not lost here."""

    @property
    def run_dir(self) -> SimpleNamespace:
        return SimpleNamespace(path=self._path)

    def run(
        self, *script: list[Heard], faults: str = "", start: Start | None = None
    ) -> Coordinator:
        """Run a coordinator to its end, given what each of its polls brings."""
        job = SimpleNamespace(
            num_workers=2,
            num_steps=NUM_STEPS,
            batch_size=4,
            report_every_s=0.0,
            cores=1,
            faults=parse(faults),
            notes=["it is a fake"],
            unit_names=lambda k: ([f"unit{k}"], []),
        )
        self.reception = FakeReception(script)
        program = SimpleNamespace(load=lambda _: job, started_t=0.0)
        phases = lambda phase, *, takes_s=0.0: None  # noqa: E731
        coordinator = Coordinator(
            program, Announcement(job_text=""), self, self.reception, start or Start(), phases
        )
        coordinator.run(
            self,
            gathered=lambda: self.order.append("all results are here"),
            ended=lambda: self.order.append("the end is told"),
        )
        return coordinator


@pytest.fixture
def case(tmp_path, monkeypatch) -> Case:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return Case(tmp_path)


# The end ----------------------------------------------------------------------------------------


def test_weights_are_written_first_and_workers_leave_last(case):
    case.run([DONE_0, DONE_1, result(1)], [result(0)])
    assert case.order == [
        "all results are here",
        "weights unit0 unit1",
        "summary",
        "workers may leave",
        "the end is told",
    ]
    assert case.reception.let_gone == ["0/0", "1/0"]
    assert case.reception.is_closed
    assert case.finished_with["refused"] == 3
    assert [found.block for found in case.finished_with["results"]] == [0, 1]


def test_workers_do_not_leave_before_the_weights_are_written(case):
    case.disk_is_full = True
    with pytest.raises(NotWritten):
        case.run([DONE_0, DONE_1, result(0), result(1)])
    assert case.order == ["all results are here"]


def test_finished_workers_are_asked_until_they_hand_in(case):
    """A result may be lost with the coordinator that asked for it, or with the worker."""
    case.run(
        [report(0), report(1, finished=True)],
        [report(1, finished=True)],
        [result(1), report(1, finished=True), report(0, finished=True)],
        [result(0)],
    )
    assert case.reception.asked == ["1/0", "1/0", "0/0"]


def test_results_without_a_step_have_the_last_one_heard_of(case):
    """A worker that died behind its last step hands in by a generation that had none to run."""
    case.run(
        [report(0, steps=[10, 11]), report(1), DONE_0, DONE_1],
        [result(0), result(1, last=step(1, 11))],
    )
    assert [found.last.step for found in case.finished_with["results"]] == [11, 11]
    assert [record.step for record in case.recorded] == [10, 11]


@pytest.mark.parametrize(
    "forged",
    [
        result(0, weights=b"other weights"),
        result(0, generation=1),
        result(0),  # before anybody has asked
    ],
)
def test_result_that_is_not_awaited_is_left_out(case, forged):
    case.run([forged], [DONE_0, DONE_1], [result(0), result(1)])
    assert case.reception.asked == ["0/0", "1/0"]
    assert "weights unit0 unit1" in case.order


def test_result_that_comes_twice_is_taken_once(case):
    case.run([DONE_0, result(0)], [DONE_0, result(0), result(0)], [DONE_1, result(1)])
    assert case.reception.asked == ["0/0", "1/0"]
    assert len(case.finished_with["results"]) == 2


def test_report_of_a_generation_that_is_over_is_left_out(case):
    case.run(
        [report(0, steps=[4], generation=1), report(0, steps=[5], finished=True)],
        [report(0, finished=True, generation=1), DONE_1, result(0, generation=1), result(1)],
    )
    assert case.reception.asked == ["0/1", "1/0"]
    assert [record.step for record in case.recorded] == [4]


def test_strangers_are_counted_in_the_live_line(case, capsys):
    case.run([report(0, refused=2), report(1, refused=1)], [DONE_0, DONE_1, result(0), result(1)])
    assert "refused 6" in capsys.readouterr().out


# To let the workers go --------------------------------------------------------------------------


def test_worker_that_speaks_after_the_end_is_told_that_it_may_leave(case):
    case.run(
        [DONE_0, DONE_1, result(0), result(1)],
        [left(0), report(1, generation=1)],
        [left(1)],
    )
    assert case.reception.let_gone == ["0/0", "1/0", "1/1"]


def test_workers_that_have_gone_without_a_word_are_not_waited_for(case, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_S", 0.05)
    case.run([DONE_0, DONE_1, result(0), result(1)], [left(0)], *[[] for _ in range(1)])
    assert case.order[-1] == "the end is told"


def test_next_coordinator_of_a_finished_job_only_lets_workers_go(case):
    case.has_finished_before = True
    case.run([report(1)], [left(0), left(1)], start=Start(generation=1))
    assert case.order == ["the end is told"]
    assert case.reception.let_gone == ["1/0"]


@pytest.mark.parametrize(
    ("hung_in", "told"),
    [("evaluating: unit a", "it hung while evaluating: unit a"), ("writing the weights", "")],
)
def test_evaluation_that_has_hung_is_not_tried_again(case, hung_in, told):
    case.run([DONE_0, DONE_1, result(0), result(1)], start=Start(generation=1, hung_in=hung_in))
    assert case.finished_with["not_evaluated"] == told


def test_job_is_described_by_the_first_coordinator_alone(case, capsys):
    case.run([DONE_0, DONE_1, result(0), result(1)])
    assert "2 workers, 12 steps of 4 samples: unit0 | unit1" in capsys.readouterr().out
    case.run([DONE_0, DONE_1, result(0), result(1)], start=Start(generation=1))
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
        [DONE_0, DONE_1, result(0), result(1)],
        faults="coordinator-kill@5",
    )
    assert killed == [3], "behind the third record, which is the lowest worker's step 5"


# To begin, to take over, or neither -------------------------------------------------------------


class Rendezvous:
    """The announcement that lies there, if one does."""

    def __init__(self, announced: Announcement | None = None) -> None:
        self.announced = announced

    def recall_announcement(self) -> Announcement | None:
        return self.announced

    def announce(self, announcement: Announcement) -> None:
        self.announced = announcement


@pytest.fixture
def begin(monkeypatch):
    """Begin a coordinator; `announce` is what that comes to, or what it raises."""

    def begin(
        rendezvous: Rendezvous,
        *,
        generation: int = 0,
        announce: object = "announced",
        reception: str | None = "reception",
    ):
        def announced(program, rendezvous, meeting, tell):
            if isinstance(announce, Exception):
                raise announce
            return (Announcement(job_text="new"), announce, reception)

        monkeypatch.setattr(module, "announce", announced)
        monkeypatch.setattr(
            module, "recall", lambda program, _, found, __: (found, "recalled", reception)
        )
        program = SimpleNamespace(name="loco")
        start = Start(generation=generation)
        return module._begin(program, rendezvous, None, start, lambda *_: None)

    return begin


JOB = Announcement(job_text="old")


def test_first_generation_announces_whatever_lies_there(begin):
    assert begin(Rendezvous(JOB))[1] == "announced"


def test_later_generation_takes_over_what_was_announced(begin):
    assert begin(Rendezvous(JOB), generation=1) == (JOB, "recalled", "reception")


def test_later_generation_announces_if_the_first_could_not(begin):
    assert begin(Rendezvous(None), generation=1)[1] == "announced"


def test_run_that_is_finished_already_has_nothing_to_do(begin):
    assert begin(Rendezvous(None), reception=None) == DONE


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
