"""The coordinator: announces the job, shows and records it, and makes the summary at the end.

Owns the terminal and what a run directory says of the run. No step waits for it, and its death
stops nothing: the one that takes over finds the announcement, and workers hand in what it asks for.
"""

import faulthandler
import hashlib
import logging
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import NoReturn

import msgpack
import safetensors.torch
import torch
from torch import Tensor

from runtime.coordinator.live_view import LiveView, make_console
from runtime.coordinator.reception import Left, Reception, Result
from runtime.coordinator.start import WAITING, Found, announce, recall
from runtime.faults.log import FaultLog
from runtime.job import Job
from runtime.lifetime import die_with_parent
from runtime.output import protect_output
from runtime.program import (
    DONE,
    FINAL,
    NOT_STARTED,
    REFUSED,
    TRACEBACK_CHARACTERS,
    Meeting,
    Program,
    Start,
    Tell,
)
from runtime.records.progress import Progress, WorkerStatus
from runtime.records.recorder import EVALUATING, NotWritten, Recorder
from runtime.records.run_dir import RunDir
from runtime.records.schema import Report, WorkerResult
from runtime.rendezvous import Announcement, Rendezvous, open_rendezvous
from runtime.signals import Ended, leave_when_told, relay_to
from runtime.state.storage import open_storage

log = logging.getLogger(__name__)

POLL_MS = 200
SILENCE_S = 3.0
TELL_EVERY_S = 1.0


def run_coordinator(program: Program, meeting: Meeting, start: Start, keeper: Connection) -> None:
    """The body of the coordinator process.

    A refused job is said in one message, exit code 2. A failure before the job is announced would
    only repeat itself, and no worker can begin: it is said here, and ends the job.
    """
    die_with_parent()
    relay_to(meeting.keeper_pid)
    multiprocessing.set_start_method(None, force=True)  # a user's pool gets Python's default
    leave_when_told()
    protect_output(log.warning)

    def say(**facts: object) -> None:
        keeper.send_bytes(msgpack.packb(facts))

    def tell(phase: str, *, takes_s: float = 0.0) -> None:
        say(phase=phase, takes_s=takes_s, waits=phase.startswith(WAITING))

    try:
        rendezvous = open_rendezvous(meeting, timeout_s=program.patience_s, known=start.known)
        found = _begin(program, rendezvous, meeting, start, tell)
        if isinstance(found, int):
            return say(end=found)
        announcement, run_dir, reception = found
        say(known=rendezvous.known)
        _log_to(run_dir)
        recorder = Recorder(run_dir, open_storage(announcement.checkpoint_dir))
        try:
            coordinator = Coordinator(program, announcement, recorder, reception, start, tell)
            say(num_workers=coordinator.num_workers, reached=1)
            coordinator.run(
                rendezvous, gathered=partial(say, reached=2), ended=partial(say, end=DONE)
            )
        finally:
            recorder.close()
    except Ended:
        sys.exit(128 + signal.SIGTERM)
    except NotWritten as error:
        say(end=FINAL)
        _fail(say, str(error))
    except Exception:
        _fail(say, traceback.format_exc())


def _begin(
    program: Program, rendezvous: Rendezvous, meeting: Meeting, start: Start, tell: Tell
) -> tuple[Announcement, RunDir, Reception] | int:
    """What a generation before this one has announced, or what is announced now; how this process
    is to end if there is no job to follow."""
    before = rendezvous.recall_announcement() if start.generation else None
    if before is not None and before.no_job is not None:
        return before.no_job
    if before is None:
        found = _announce(program, rendezvous, meeting, tell)
    else:
        found = recall(program, rendezvous, before, meeting)
    if isinstance(found, int):
        return found
    announcement, run_dir, reception = found
    return DONE if reception is None else (announcement, run_dir, reception)


def _announce(
    program: Program, rendezvous: Rendezvous, meeting: Meeting, tell: Tell
) -> Found | int:
    try:
        return announce(program, rendezvous, meeting, tell)
    except ValueError as error:
        end, text = REFUSED, f"{program.name}: error: {error}"
    except Exception as error:
        told = traceback.format_exc()
        end, text = NOT_STARTED, f"{told}{program.name}: error: the job could not begin: {error}"
    print(text, file=sys.stderr, flush=True)
    rendezvous.announce(Announcement(no_job=end))
    return end


def _fail(say: Callable[..., None], text: str) -> NoReturn:
    log.error("%s", text)
    say(traceback=text[-TRACEBACK_CHARACTERS:])
    sys.exit(1)


def _log_to(run_dir: RunDir) -> None:
    """What goes wrong with the coordinator itself, its output included, is in its log."""
    run_dir.logs.mkdir(exist_ok=True)  # --fresh has removed it
    file = (run_dir.logs / "coordinator.log").open("a", buffering=1)
    faulthandler.enable(file)
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=file, level=logging.INFO, format=form, force=True)


class Coordinator:
    """Listens to the workers of one job and leads them through its end."""

    def __init__(
        self,
        program: Program,
        announcement: Announcement,
        recorder: Recorder,
        reception: Reception,
        start: Start,
        tell: Tell,
    ) -> None:
        """`tell` tells the keeper which phase begins."""
        self._tell_phase = tell
        self._program = program
        self._announcement = announcement
        self._job: Job = program.load(announcement.job_text)
        self.num_workers = self._job.num_workers
        torch.set_num_threads(self._job.cores)
        self._recorder = recorder
        self._reception = reception
        self._is_first = start.generation == 0
        self._hung_in = start.hung_in if start.hung_in.startswith(EVALUATING) else ""
        self._log = FaultLog(recorder.run_dir.path, generation=start.generation)
        self._faults = [f for f in self._job.faults if f.kind == "coordinator-kill"]
        self._console = make_console()
        self._progress = Progress(self._job)
        self._latest: dict[int, tuple[int, bytes]] = {}  # generation and identity that have spoken
        self._awaited: dict[int, tuple[int, str]] = {}  # generation and digest of a result
        self._results: dict[int, WorkerResult] = {}
        self._weights: dict[int, bytes] = {}

    def run(
        self, rendezvous: Rendezvous, *, gathered: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        """Follow the job to its end, evaluate, write the summary, and let the workers go.

        `gathered` is called when all results are here, and `ended` when nothing is left to do.
        Raises NotWritten."""
        if self._is_first:
            self._say_what_runs()
        if not rendezvous.is_finished():
            self._finish(gathered, rendezvous.repeat)
            rendezvous.mark_finished()
        self._tell_phase("leaving")
        ended()
        self._let_workers_go()
        self._reception.close()

    def _finish(self, gathered: Callable[[], None], repeat: Callable[[], None]) -> None:
        self._follow(repeat)
        gathered()
        self._tell_phase("writing the weights")
        weights = self._gather_weights()
        # First: nothing that follows may lose them.
        self._recorder.write_weights(weights, console=self._console, tell=self._tell_phase)
        self._recorder.finish(
            self._job,
            [result for _, result in sorted(self._results.items())],
            weights,
            started_t=self._program.started_t,
            console=self._console,
            tell=self._tell_phase,
            not_evaluated=self._hung_in and f"it hung while {self._hung_in}",
            refused=self._reception.num_refused,
        )

    def _say_what_runs(self) -> None:
        names = [" ".join(self._job.unit_names(k)[0]) for k in range(self.num_workers)]
        self._say(
            f"{self.num_workers} workers, {self._job.num_steps} steps of"
            f" {self._job.batch_size} samples: {' | '.join(names)}"
        )
        for note in self._job.notes:
            self._say(f"note: {note}")

    def _follow(self, repeat: Callable[[], None]) -> None:
        """Record and show reports until every worker has handed in its result."""
        with LiveView(self._job.num_steps, console=self._console) as view:
            told_s = -math.inf
            while len(self._results) < self.num_workers:
                if time.monotonic() - told_s > TELL_EVERY_S:
                    self._tell_phase("following the steps")
                    if len(self._latest) < self.num_workers:
                        repeat()  # a rank may not have read the announcement yet
                    told_s = time.monotonic()
                self._listen()
                statuses = self._progress.statuses()
                # One that took over knows only of blocks that have spoken since.
                if self._is_first or all(status.last for status in statuses):
                    view.update(statuses, refused=self._num_refused(statuses))
            statuses = self._progress.statuses()
            view.update(statuses, refused=self._num_refused(statuses))

    def _num_refused(self, statuses: Sequence[WorkerStatus]) -> int:
        """Strangers at the sockets of all processes."""
        return self._reception.num_refused + sum(status.report.refused for status in statuses)

    def _listen(self) -> None:
        """Take what comes within a poll."""
        for said, identity in self._reception.take(POLL_MS):
            match said:
                case Report():
                    self._take_report(said, identity)
                case Result(result=result, weights=weights):
                    self._take_result(result, weights)

    def _take_report(self, report: Report, identity: bytes) -> None:
        """Take a report, unless it is of a generation that is over."""
        latest, _ = self._latest.get(report.block, (0, b""))
        if report.generation < latest:
            return
        self._latest[report.block] = report.generation, identity
        if report.result_sha256 and report.block not in self._results:
            self._awaited[report.block] = report.generation, report.result_sha256
            self._reception.ask_for_result(identity)
        if report.records:
            self._recorder.add(report.records)
        for line in self._progress.take(report):
            self._say(line)
        if report.block == 0 and report.records:
            self._fall_over()

    def _take_result(self, result: WorkerResult, weights: bytes) -> None:
        """Take the result that is awaited, once; a generation that had no step to run has the last
        of the one before."""
        said = result.generation, hashlib.sha256(weights).hexdigest()
        if result.block in self._results or self._awaited.get(result.block) != said:
            log.warning("a result of worker %d that is not awaited is left out", result.block)
            return
        last = result.last or self._progress.last.get(result.block)
        if last is not None:
            self._progress.last[result.block] = last
        self._results[result.block] = replace(result, last=last)
        self._weights[result.block] = weights

    def _let_workers_go(self) -> None:
        """Tell the workers that the result is durable, until all have left, or nobody has spoken
        for a while: whoever begins later finds it in the rendezvous."""
        for _, identity in self._latest.values():
            self._reception.let_go(identity)
        patience_s = max(SILENCE_S, 2 * self._job.report_every_s)
        here, heard_s = set(range(self.num_workers)), time.monotonic()
        while here and time.monotonic() - heard_s < patience_s:
            for said, identity in self._reception.take(POLL_MS):
                heard_s = time.monotonic()
                if isinstance(said, Left):
                    here.discard(said.block)
                else:
                    self._reception.let_go(identity)

    def _fall_over(self) -> None:
        """Die if the fault plan says so; the step is the lowest worker's."""
        last = self._progress.last.get(0)
        for fault in self._faults:
            if last is not None and last.step >= fault.step and self._log.claim(str(fault)):
                os.kill(os.getpid(), signal.SIGKILL)

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def _gather_weights(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for _, packed in sorted(self._weights.items()):
            weights |= safetensors.torch.load(packed)
        return weights
