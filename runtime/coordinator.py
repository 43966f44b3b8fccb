"""The coordinator: resolves the job, shows and records it, and makes the summary at the end.

Owns the run directory and the terminal. No step waits for it: workers report and go on. It runs
in a process of its own on rank 0; as any process of a job, its death ends the job.
"""

import secrets
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import safetensors.torch
import zmq
from torch import Tensor

from runtime.job import Job
from runtime.lifetime import die_with_parent
from runtime.links.zeromq import bind_for_this_user, endpoint
from runtime.live_view import LiveView, make_console
from runtime.program import REFUSED, Meeting, Program
from runtime.recorder import Recorder
from runtime.rendezvous import Announcement, Rendezvous, open_rendezvous
from runtime.reports import WorkerStatus, units_label
from runtime.run_dir import RunDir

POLL_MS = 200
TRACEBACK_CHARACTERS = 20_000  # what a pipe takes without a reader
MEASURING_TIMEOUT_S = 60.0
IDLE_SHARES = dict.fromkeys(
    ("compute_s", "overhead_s", "wait_input_s", "wait_credit_s", "wait_tie_s"), 0.0
)


def run_coordinator(program: Program, meeting: Meeting, keeper: Connection) -> None:
    """The body of the coordinator process. A refused job is said in one message, exit code 2."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keeper decides what an interrupt means
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        rendezvous = open_rendezvous(meeting, is_coordinator=True)
        try:
            text = program.resolve()
            run_dir = _take_run_dir(program, rendezvous)
        except ValueError as error:
            print(f"{program.name}: error: {error}", file=sys.stderr, flush=True)
            rendezvous.announce(Announcement(refused=True))
            sys.exit(REFUSED)
        recorder = Recorder(run_dir)
        try:
            coordinator = Coordinator(program, text, recorder)
            keeper.send_bytes(msgpack.packb({"num_workers": coordinator.num_workers}))
            coordinator.run(rendezvous)
        finally:
            recorder.close()
    except Exception:
        keeper.send_bytes(
            msgpack.packb({"traceback": traceback.format_exc()[-TRACEBACK_CHARACTERS:]})
        )
        sys.exit(1)


def _take_run_dir(program: Program, rendezvous: Rendezvous) -> RunDir:
    """The user's directory, the one of the attempt before this, or a new one."""
    recalled = rendezvous.recall_run_dir()
    wish = recalled or program.run_dir
    path = None if wish is None else Path(wish)
    run_dir = RunDir.create(path, name=program.run_name, restart=recalled is not None)
    rendezvous.remember_run_dir(str(run_dir.path.absolute()))
    return run_dir


class Coordinator:
    """Listens to the workers of one job and leads them through its end."""

    def __init__(self, program: Program, text: str, recorder: Recorder) -> None:
        self._program = program
        self._text = text
        self._job: Job = program.load(text)
        recorder.run_dir.write_config(self._job.config_toml)
        self.num_workers = self._job.num_workers
        self._recorder = recorder
        self._console = make_console()
        self._identities: dict[int, bytes] = {}
        self._reports: dict[int, dict[str, Any]] = {}
        self._last_records: dict[int, dict[str, Any]] = {}
        self._shares: dict[int, dict[str, float]] = {}
        self._results: dict[int, dict[str, Any]] = {}
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 2000)

    def run(self, rendezvous: Rendezvous) -> None:
        """Announce the job, follow it to its end, evaluate, and write the summary."""
        job, run_id = self._job, secrets.token_hex(8)
        on_this_host = job.link == "zmq-ipc"
        address = f"ipc://@loco-{run_id}-coordinator" if on_this_host else f"tcp://{job.bind}:*"
        bind_for_this_user(self._socket, address)
        rendezvous.announce(
            Announcement(
                refused=False,
                job_text=self._text,
                run_id=run_id,
                run_dir=str(self._recorder.run_dir.path.absolute()),
                coordinator=endpoint(self._socket),
            )
        )
        self._say_what_runs()
        self._follow()
        weights = self._gather_weights()
        self._recorder.write_weights(weights)  # first: nothing that follows may lose them
        self._measure_blocks()
        for identity in self._identities.values():
            self._socket.send_multipart([identity, msgpack.packb({"kind": "leave"})])
        self._socket.close()
        self._recorder.finish(
            job,
            [result for _, result in sorted(self._results.items())],
            weights,
            started_t=self._program.started_t,
            console=self._console,
        )

    def _say_what_runs(self) -> None:
        names = [" ".join(self._job.unit_names(k)[0]) for k in range(self.num_workers)]
        self._console.print(
            f"{self.num_workers} workers, {self._job.num_steps} steps of"
            f" {self._job.batch_size} samples: {' | '.join(names)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        for note in self._job.notes:
            self._console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)

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
                    self._results[block] = report | {"weights": weights[0]}
                case "measured":
                    measured.append(report)
        return measured

    def _take_report(self, block: int, report: dict[str, Any]) -> None:
        before = self._reports.get(block, {}).get("seconds", IDLE_SHARES)
        spent = {name: report["seconds"][name] - before[name] for name in IDLE_SHARES}
        total = sum(spent.values())
        if total > 0:
            self._shares[block] = {name: value / total for name, value in spent.items()}
        self._reports[block] = report
        if report["records"]:
            self._last_records[block] = report["records"][-1]
            self._recorder.add(report["records"])

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
                order = msgpack.packb({"kind": "measure"})
                self._socket.send_multipart([self._identities[block], order])
            deadline_s = time.monotonic() + MEASURING_TIMEOUT_S
            while waiting and time.monotonic() < deadline_s:
                for answer in self._listen():
                    self._results[answer["block"]]["measured"] = answer
                    waiting.discard(answer["block"])

    def _gather_weights(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for _, result in sorted(self._results.items()):
            weights |= safetensors.torch.load(result["weights"])
        return weights
