"""The coordinator: announces the job, shows and records it, and makes the summary at the end.

Owns the terminal and what a run directory says of the run. No step waits for it, and its death
stops nothing: the one that takes over finds the announcement, and workers hand in what it asks for.
"""

import os
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import safetensors.torch
import zmq
from torch import Tensor

from runtime.announcing import announce, recall
from runtime.faults.log import FaultLog
from runtime.job import Job
from runtime.lifetime import die_with_parent
from runtime.live_view import LiveView, make_console
from runtime.program import REFUSED, TRACEBACK_CHARACTERS, Life, Meeting, Program
from runtime.recorder import Recorder
from runtime.rendezvous import Announcement, Rendezvous, open_rendezvous
from runtime.reports import WorkerStatus, event_line, units_label

POLL_MS = 200
MEASURING_TIMEOUT_S = 60.0
IDLE_SHARES = dict.fromkeys(
    ("compute_s", "overhead_s", "wait_input_s", "wait_credit_s", "wait_tie_s", "snapshot_s"), 0.0
)


def run_coordinator(program: Program, meeting: Meeting, life: Life, keeper: Connection) -> None:
    """The body of the coordinator process. A refused job is said in one message, exit code 2."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keeper decides what an interrupt means
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        rendezvous = open_rendezvous(meeting, is_coordinator=True)
        before = rendezvous.recall_announcement() if life.generation else None
        if before is not None and (before.refused or before.nothing_to_do):
            sys.exit(REFUSED if before.refused else 0)
        try:
            found = recall(program, rendezvous) if before is not None else None
            announcement, run_dir, socket = found or announce(program, rendezvous)
        except ValueError as error:
            print(f"{program.name}: error: {error}", file=sys.stderr, flush=True)
            rendezvous.announce(Announcement(refused=True))
            sys.exit(REFUSED)
        if announcement.nothing_to_do or rendezvous.is_finished:
            return
        recorder = Recorder(run_dir)
        try:
            coordinator = Coordinator(program, announcement, recorder, socket, life)
            keeper.send_bytes(msgpack.packb({"num_workers": coordinator.num_workers}))
            coordinator.run(rendezvous)
        finally:
            recorder.close()
    except Exception:
        keeper.send_bytes(
            msgpack.packb({"traceback": traceback.format_exc()[-TRACEBACK_CHARACTERS:]})
        )
        sys.exit(1)


class Coordinator:
    """Listens to the workers of one job and leads them through its end."""

    def __init__(
        self,
        program: Program,
        announcement: Announcement,
        recorder: Recorder,
        socket: zmq.Socket[bytes],
        life: Life,
    ) -> None:
        self._program = program
        self._announcement = announcement
        self._job: Job = program.load(announcement.job_text)
        self.num_workers = self._job.num_workers
        self._recorder = recorder
        self._socket = socket
        self._is_first = life.generation == 0
        self._log = FaultLog(recorder.run_dir.path, generation=life.generation)
        self._faults = [f for f in self._job.faults if f.kind == "coordinator-kill"]
        self._console = make_console()
        self._identities: dict[int, bytes] = {}
        self._reports: dict[int, dict[str, Any]] = {}
        self._last_records: dict[int, dict[str, Any]] = {}
        self._shares: dict[int, dict[str, float]] = {}
        self._results: dict[int, dict[str, Any]] = {}

    def run(self, rendezvous: Rendezvous) -> None:
        """Follow the job to its end, evaluate, write the summary, and let the workers go."""
        if self._is_first:
            self._say_what_runs()
        self._follow()
        weights = self._gather_weights()
        self._recorder.write_weights(weights)  # first: nothing that follows may lose them
        if not self._job.quick_end:
            self._measure_blocks()
        self._recorder.finish(
            self._job,
            [result for _, result in sorted(self._results.items())],
            weights,
            started_t=self._program.started_t,
            console=self._console,
        )
        rendezvous.mark_finished()
        self._socket.close()

    def _say_what_runs(self) -> None:
        names = [" ".join(self._job.unit_names(k)[0]) for k in range(self.num_workers)]
        self._say(
            f"{self.num_workers} workers, {self._job.num_steps} steps of"
            f" {self._job.batch_size} samples: {' | '.join(names)}"
        )
        for note in self._job.notes:
            self._say(f"note: {note}")

    def _follow(self) -> None:
        """Record and show reports until every worker has handed in its result."""
        with LiveView(self._job.num_steps, console=self._console) as view:
            while len(self._results) < self.num_workers:
                self._listen()
                if self._last_records:
                    view.update(self._statuses())
            view.update(self._statuses())

    def _listen(self) -> list[dict[str, Any]]:
        """Take what comes within a poll; return the measurements among it."""
        measured: list[dict[str, Any]] = []
        timeout_ms = POLL_MS
        while self._socket.poll(timeout_ms):
            timeout_ms = 0
            identity, packed, *weights = self._socket.recv_multipart()
            report: dict[str, Any] = msgpack.unpackb(packed)
            block = report["block"]
            self._identities[block] = identity
            match report["kind"]:
                case "report":
                    self._take_report(block, report)
                case "result":
                    last = report["last"] or self._last_records.get(block)
                    more = {"weights": weights[0], "last": last, "restarts": report["generation"]}
                    self._results[block] = report | more
                case "measured":
                    measured.append(report)
        return measured

    def _take_report(self, block: int, report: dict[str, Any]) -> None:
        last = self._reports.get(block)
        same_life = last is not None and last["generation"] == report["generation"]
        before = last["seconds"] if last is not None and same_life else IDLE_SHARES
        spent = {name: report["seconds"][name] - before[name] for name in IDLE_SHARES}
        total = sum(spent.values())
        if total > 0:
            self._shares[block] = {name: value / total for name, value in spent.items()}
        self._reports[block] = report
        if report["finished"] and block not in self._results:
            self._order(block, "hand-in")
        if report["records"]:
            self._recorder.add(report["records"])
        for record in report["records"]:
            line = event_line(record, self._last_records.get(block))
            if line:
                self._say(line)
            if "event" not in record:
                self._last_records[block] = record
                self._fall_over(record)

    def _fall_over(self, record: dict[str, Any]) -> None:
        """Die where the fault plan says so; the step is the lowest worker's."""
        for fault in self._faults:
            is_due = record["block"] == 0 and record["step"] >= fault.step
            if is_due and self._log.claim(str(fault)):
                os.kill(os.getpid(), signal.SIGKILL)

    def _order(self, block: int, kind: str) -> None:
        self._socket.send_multipart([self._identities[block], msgpack.packb({"kind": kind})])

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _statuses(self) -> list[WorkerStatus]:
        statuses = []
        for block, report in sorted(self._reports.items()):
            record = self._last_records.get(block, {})
            shares = self._shares.get(block, IDLE_SHARES)
            statuses.append(
                WorkerStatus(
                    block=block,
                    units=units_label(*self._job.unit_names(block)),
                    step=record.get("step", -1) + 1,
                    num_steps=self._job.num_steps,
                    loss=record.get("loss"),
                    probe_top1=record.get("probe_top1"),
                    samples_per_s=record.get("samples_per_s", 0.0),
                    compute_share=shares["compute_s"],
                    wait_input_share=shares["wait_input_s"],
                    wait_credit_share=shares["wait_credit_s"],
                    wait_tie_share=shares["wait_tie_s"],
                    queue_depth=report["queue_depth"],
                    rss_bytes=report["rss_bytes"],
                    state=report["state"],
                )
            )
        return statuses

    def _measure_blocks(self) -> None:
        """Have each worker time its block alone on its cores.

        As many are timed at once as the machine has cores for, so that the other cores are as
        busy as they are in training; the rest are idle.
        """
        at_once = max(1, self._job.cores // self._job.threads)
        for first in range(0, self.num_workers, at_once):
            waiting = set(range(first, min(first + at_once, self.num_workers)))
            for block in waiting:
                self._order(block, "measure")
            deadline_s = time.monotonic() + self._job.time_alone_s + MEASURING_TIMEOUT_S
            while waiting and time.monotonic() < deadline_s:
                for answer in self._listen():
                    if answer["step_s"] is not None:
                        self._results[answer["block"]]["measured"] = answer
                    waiting.discard(answer["block"])
            for block in sorted(waiting):
                self._say(f"block {block} was not timed alone in time: there is no ceiling")

    def _gather_weights(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for _, result in sorted(self._results.items()):
            weights |= safetensors.torch.load(result["weights"])
        return weights
