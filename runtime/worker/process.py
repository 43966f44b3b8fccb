"""A worker process: holds one block, runs its driver, and reports to the coordinator.

Owns the order of a worker's work: meet, take up the state, link, train, hand in the result, leave.
What a generation leaves behind for the next one is runtime.state.saving's.
"""

import faulthandler
import logging
import multiprocessing
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import msgpack
import safetensors.torch
import torch
import zmq
from torch import Tensor

from runtime.block import BlockStep
from runtime.core.plan import Stream
from runtime.core.streams import ProtocolError
from runtime.core.tie_stats import TieStats
from runtime.core.worker import WorkerCore
from runtime.faults.injector import Injector
from runtime.faults.log import FaultLog
from runtime.job import Job
from runtime.lifetime import die_with_parent
from runtime.links.admission import CurveKeys
from runtime.links.link import Unreachable
from runtime.output import protect_output
from runtime.program import DONE, FINAL, NOT_OURS, TRACEBACK_CHARACTERS, Meeting, Program, Start
from runtime.records.bubbles import fill_steps
from runtime.records.progress import units_label
from runtime.records.run_dir import seen_here, trace_part, worker_log
from runtime.records.trace import Trace
from runtime.rendezvous import Announcement, Rendezvous, open_rendezvous
from runtime.signals import relay_to
from runtime.state.checkpoint import Checkpoint
from runtime.state.retention import Retention
from runtime.state.saving import (
    OutOfRoom,
    Saver,
    put_back,
    split_part,
    split_tie_stats,
    with_tie_stats,
)
from runtime.state.status_page import Field, Page
from runtime.state.storage import open_storage
from runtime.trust.keys import RunKeys
from runtime.worker.connect import Connector, outgoing_specs
from runtime.worker.driver import Driver
from runtime.worker.liveness import Liveness
from runtime.worker.lookup import Lookup
from runtime.worker.reporter import Reporter
from runtime.worker.telemetry import Telemetry

log = logging.getLogger(__name__)

TELLING = threading.Lock()  # a state is saved, and a failure told, on threads of their own
SWITCH_INTERVAL_S = 2e-4  # the compute thread waits no longer than that for the loop's to let go


def run_worker(
    program: Program, meeting: Meeting, block_index: int, start: Start, keeper: Connection
) -> None:
    """The body of a worker process, one generation of it. Tells the keeper why it fails, if so."""
    die_with_parent()
    relay_to(meeting.keeper_pid)
    multiprocessing.set_start_method(None, force=True)  # a user's pool gets Python's default
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    describe: Callable[[Exception], str] = str
    final: tuple[type[Exception], ...] = (ProtocolError, OutOfRoom, Unreachable)
    try:
        _tell(keeper, phase="waiting for the coordinator", waits=True)
        rendezvous = open_rendezvous(meeting, timeout_s=program.patience_s, known=start.known)
        announcement = rendezvous.await_announcement()
        if announcement.no_job is not None or rendezvous.is_finished():
            return _tell(keeper, end=announcement.no_job or DONE)
        _tell(keeper, phase="loading the job", known=rendezvous.known)
        job = _load(program, announcement)
        final, describe = (*final, *job.final_errors), partial(job.describe, block_index)
        announcement = _settle(announcement, program, meeting, job, block_index, keeper)
        if not start.generation:
            _tell_other_run_dir(program.run_dir, announcement.run_dir, block_index, keeper)
        if block_index >= job.num_workers:
            spare = f"rank {block_index} is spare: the job has {job.num_workers} workers"
            return _tell(keeper, notice=spare, is_spare=True, end=DONE)
        worker = Worker(
            job,
            announcement,
            block_index,
            start,
            keeper,
            meeting,
            reach_timeout_s=program.rank_timeout_s,
        )
        worker.take_up()
        if not rendezvous.is_finished():  # the others may have left meanwhile
            _tell(keeper, phase="waiting for its neighbours", waits=True)
            worker.link(rendezvous)
            _tell(keeper, phase="", known=rendezvous.known)
            is_stopped = worker.train(rendezvous)
            return _tell(keeper, end=DONE, is_stopped=is_stopped)
        _tell(keeper, end=DONE)
    except NotThisJob as error:
        _tell(keeper, end=NOT_OURS, why=str(error))
    except Exception as error:
        _tell_failure(keeper, error, final=final, describe=describe)
        sys.exit(1)


def _tell_failure(
    keeper: Connection,
    error: Exception,
    *,
    final: tuple[type[Exception], ...],
    describe: Callable[[Exception], str],
) -> None:
    """Tell what is being handled; `final` are the errors that would only come again, which
    `describe` puts into the user's words."""
    text = traceback.format_exc()
    log.error("%s", text)
    if isinstance(error, final):
        if not isinstance(error, ProtocolError) and error.__cause__ is None:
            text = describe(error)  # it is meant for the user alone
        _tell(keeper, end=FINAL)
    _tell(keeper, traceback=text[-TRACEBACK_CHARACTERS:])


class NotThisJob(Exception):
    """The job that was announced is not the one that this rank was started for."""


def _load(program: Program, announcement: Announcement) -> Job:
    try:
        return program.load(announcement.job_text)
    except ValueError as error:
        raise NotThisJob(str(error)) from None


def _settle(
    announcement: Announcement,
    program: Program,
    meeting: Meeting,
    job: Job,
    block_index: int,
    keeper: Connection,
) -> Announcement:
    """Find this host's places for the run, and log there from now on."""
    announcement = _with_own_places(announcement, program, meeting)
    _log_to(worker_log(Path(announcement.run_dir), block_index))
    protect_output(log.warning)
    _tell(keeper, **_what_its_keeper_writes(announcement, job))
    _tell(keeper, num_workers=job.num_workers)
    return announcement


def _tell_other_run_dir(given: str | None, run_dir: str, rank: int, keeper: Connection) -> None:
    """Tell that this rank was started with a run directory that is not the run's, if so."""
    if given is not None and Path(given).absolute() != Path(run_dir):
        _tell_trouble(
            keeper,
            f"rank {rank} (host {socket.gethostname()}) was started with --run-dir {given}, but"
            f" the run is in {run_dir}, which rank 0 was given",
        )


def _with_own_places(
    announcement: Announcement, program: Program, meeting: Meeting
) -> Announcement:
    """With what this host has for the run. Its run directory is rank 0's if that is seen here, else
    the one that this rank was given, or one of that name in this host's own runs/. The checkpoint
    directory may have another path here, which this rank was given."""
    if meeting.member is None or meeting.member.is_one_host:
        return announcement
    checkpoint_dir = program.checkpoint_dir or announcement.checkpoint_dir
    announcement = replace(announcement, checkpoint_dir=checkpoint_dir)
    theirs = Path(announcement.run_dir)
    if seen_here(theirs, announcement.run_id):
        return announcement
    own = Path("runs", theirs.name) if program.run_dir is None else Path(program.run_dir)
    return replace(announcement, run_dir=str(own.absolute()))


def _what_its_keeper_writes(announcement: Announcement, job: Job) -> dict[str, str]:
    """What a keeper must know of the run to write its checkpoints: it reads no file of the run
    directory, which may be another host's."""
    return {
        "run_dir": announcement.run_dir,
        "run_id": announcement.run_id,
        "checkpoint_dir": announcement.checkpoint_dir,
        "config": job.config_toml,
    }


def _tell(keeper: Connection, **facts: object) -> None:
    with TELLING:
        keeper.send_bytes(msgpack.packb(facts))


def _tell_phase(keeper: Connection, phase: str, *, takes_s: float = 0.0) -> None:
    _tell(keeper, phase=phase, takes_s=takes_s)


def _tell_trouble(keeper: Connection, text: str) -> None:
    log.warning("%s", text)
    _tell(keeper, trouble=text)


def _log_to(path: Path) -> None:
    """Send this process's output, warnings and crashes to its log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    faulthandler.enable(file)
    logging.basicConfig(
        stream=file,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )


class Worker:
    """One generation of one block, and everything that moves it."""

    def __init__(
        self,
        job: Job,
        announcement: Announcement,
        block_index: int,
        start: Start,
        keeper: Connection,
        meeting: Meeting,
        *,
        reach_timeout_s: float,
    ) -> None:
        """`reach_timeout_s`: how long an address on another host may not answer."""
        assert start.memory is not None, "a worker's keeper owns memory for it"
        self._job = job
        self._block_index = block_index
        self._carried: list[str] = []
        self._start = start
        self._meeting = meeting
        self._keeper = keeper
        self._tell_phase = partial(_tell_phase, keeper)
        self._reach_timeout_s = reach_timeout_s
        self._tell_trouble = partial(_tell_trouble, keeper)
        self._announcement = announcement
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._thread_failure: BaseException | None = None
        self._page = Page(start.memory.page)
        self._plan = job.plan(block_index)
        faults = FaultLog(Path(announcement.run_dir), generation=start.generation)
        self._injector = Injector(job.faults, block_index, faults, keeper_pid=meeting.keeper_pid)
        self._outgoing = outgoing_specs(job, block_index)
        self._retention = Retention(start.memory.messages, self._plan, self._outgoing)
        self._saver = Saver(
            start.memory,
            self._page,
            self._retention,
            self._plan,
            announce=lambda: _tell(keeper, checkpoint=True),
            copying=self._injector.snapshotting,
            between=self._injector.checkpointing,
            tell=self._tell_trouble,
            max_bytes=job.retain_bytes,
        )

    def take_up(self) -> None:
        """Build the block and give it the state to begin with."""
        self._job.take_device(self._block_index)
        torch.set_num_threads(self._job.threads)
        self._start_step, self._tie_stats = 0, TieStats()
        _tell(self._keeper, phase="taking over what was saved", waits=True)  # for its storage
        snapshot = self._saver.take_up()
        if snapshot is not None:
            self._start_step, saved = snapshot
            state, self._tie_stats = split_tie_stats(saved)
            self._block = self._build_block()
            self._block.load(state)
        elif self._announcement.resume:
            self._start_step = self._announcement.resume_step
            checkpoints = open_storage(self._announcement.checkpoint_dir)
            self._resume(Checkpoint.open(checkpoints, self._announcement.resume))
        else:
            self._block = self._build_block()
        run_id, generation = self._announcement.run_id, self._start.generation
        log.info("run %s: generation %d begins with step %d", run_id, generation, self._start_step)
        state_bytes = sum(tensor.nbytes for tensor in self._block.state().values())
        self._saver.check_room(state_bytes)  # an optimizer may add to it with the first step
        if self._start.generation > 0:
            self._injector.starting()

    def _build_block(self) -> BlockStep:
        return self._job.build_block(self._block_index, self._tell_phase)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Begin from a checkpoint, and store a snapshot of it: files may go, memory stays."""
        if self._announcement.recut:
            self._block, notes = self._job.carry(self._block_index, checkpoint, self._tell_phase)
            self._carried = list(notes)
            put_back(self._absent_ties(checkpoint.step), self._retention)
        else:
            self._tell_phase("reading its part of the checkpoint")
            part = checkpoint.read_part(self._block_index)
            saved, ties = split_part(safetensors.torch.load(part))
            state, self._tie_stats = split_tie_stats(saved)
            self._block = self._build_block()
            self._block.load(state)
            put_back(ties, self._retention)
        held = self._block.state()
        if self._plan.free is not None:
            held = with_tie_stats(held, self._tie_stats)
        self._saver.take(self._start_step, held)

    def _absent_ties(self, step: int) -> dict[int, list[Tensor]]:
        """Another cut's downward ties mean nothing here: their terms are left out."""
        if Stream.TIE_DOWN not in self._outgoing:
            return {}
        return {late: [torch.empty(0)] for late in range(max(0, step - self._plan.lag), step)}

    def link(self, rendezvous: Rendezvous) -> None:
        """Bind and connect this worker's edges; waits for the neighbours."""
        self._connector = Connector(
            self._job,
            self._block_index,
            rendezvous,
            meeting=self._meeting,
            run_id=self._announcement.run_id,
            page=self._page,
            context=self._context,
        )
        links = self._connector.connect(self._retention)
        for shared in self._connector.shared:
            self._block.will_read(shared.memory)
        self._links = self._injector.wrap(links)
        self._liveness = Liveness(
            self._links,
            below=Lookup(lambda: rendezvous.find_edge(self._block_index - 1), "below"),
            block_index=self._block_index,
            tell=self._tell_trouble,
            reach_timeout_s=self._reach_timeout_s,
            was_reached=bool(self._page[Field.REACHED]),
            patience_s=self._job.patience_s,
        )

    def train(self, rendezvous: Rendezvous) -> bool:
        """Train to the end, hand in the result, and stay until it is durable.

        If the job stops before its end, leave when the neighbours no longer need this worker;
        return whether it did.
        """
        driver = self._make_driver()
        reporter = Reporter(
            self._context,
            self._announcement.coordinator,
            block=self._block,
            telemetry=driver.telemetry,
            page=self._page,
            block_index=self._block_index,
            generation=self._start.generation,
            admission=self._coordinators_admission(),
            tell=self._tell_trouble,
            coordinator=Lookup(rendezvous.find_coordinator, "coordinator"),
            num_refused=lambda: self._connector.num_refused,
        )
        thread = threading.Thread(
            target=self._drive, args=(driver, reporter), name="driver", daemon=True
        )
        thread.start()
        driver.compute()
        thread.join()
        if self._thread_failure is not None:
            raise self._thread_failure
        driver.close()
        reporter.close()
        self._connector.close()
        self._context.term()
        return driver.core.stats().is_stopping

    def _coordinators_admission(self) -> CurveKeys | None:
        """How this worker shows the coordinator that it is one, on a network."""
        if not self._announcement.coordinator.startswith("tcp://"):
            return None
        keys = RunKeys(self._meeting.secret, self._announcement.run_id)
        return CurveKeys(keys.worker(self._block_index), server=keys.coordinator.public)

    def _make_driver(self) -> Driver:
        stop_at = self._page[Field.STOP_AT]
        core = WorkerCore(
            self._plan,
            generation=self._start.generation,
            start_step=self._start_step,
            retained=self._retention.retained(self._start_step),
            reached=self._page[Field.REACHED],
            stop_at=stop_at - 1 if stop_at else None,
            tie_stats=self._tie_stats,
        )
        telemetry = Telemetry(
            block=self._block_index,
            start=self._start,
            page=self._page,
            batch_size=self._job.batch_size,
            every_s=self._job.report_every_s,
            from_step=self._start_step,
            fill_steps=fill_steps(self._job),
            trace=self._make_trace(),
            carried=self._carried,
        )
        return Driver(
            core,
            self._block,
            links=self._links,
            liveness=self._liveness,
            outgoing_specs=self._outgoing,
            telemetry=telemetry,
            retention=self._retention,
            saver=self._saver,
            page=self._page,
            injector=self._injector,
        )

    def _make_trace(self) -> Trace:
        path = (
            trace_part(Path(self._announcement.run_dir), self._block_index)
            if self._job.trace
            else None
        )
        return Trace(
            path, self._block_index, name=units_label(*self._job.unit_names(self._block_index))
        )

    def _drive(self, driver: Driver, reporter: Reporter) -> None:
        try:
            driver.run(until=reporter.turn, poll_also=reporter.pollable)
        except BaseException as error:
            self._thread_failure = error
            log.exception("the loop ends")  # now: what is being computed may never end
        finally:
            self._page[Field.LEAVING] = 1
            driver.end_compute()
