"""A worker process: holds one block, runs its driver, and reports to the coordinator.

Owns the order of a worker's life: meet, link, train, hand in the result, be measured, leave.
"""

import faulthandler
import itertools
import logging
import math
import os
import secrets
import signal
import statistics
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import safetensors.torch
import torch
import zmq

from runtime import digest
from runtime.core.plan import Side, Stream
from runtime.core.worker import WorkerCore
from runtime.driver import Driver
from runtime.job import Job
from runtime.lifetime import die_with_parent
from runtime.links.link import Link
from runtime.links.zeromq import ZmqLink
from runtime.program import REFUSED, Meeting, Program
from runtime.rendezvous import Announcement, Rendezvous, open_rendezvous
from runtime.run_dir import worker_log
from runtime.step import Specs
from runtime.telemetry import Telemetry

log = logging.getLogger(__name__)

WARM_UP_STEPS = 2
TRACEBACK_CHARACTERS = 20_000  # what a pipe takes without a reader
MEASURED_STEPS = 30
MIN_MEASURED_STEPS = 3
MEASURING_LIMIT_S = 1.5
COORDINATOR_PATIENCE_S = 600.0  # for its next order, while others finish or are measured


def run_worker(
    program: Program, meeting: Meeting, k: int, generation: int, keeper: Connection
) -> None:
    """The body of worker process k. Sends its traceback to the keeper if it fails."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keeper decides what an interrupt means
    try:
        rendezvous = open_rendezvous(meeting)
        announcement = rendezvous.await_announcement()
        if announcement.refused:
            sys.exit(REFUSED)
        _log_to(worker_log(Path(announcement.run_dir), k))
        worker = Worker(program.load(announcement.job_text), announcement, k, generation)
        worker.link(rendezvous)
        worker.train()
    except Exception:
        text = traceback.format_exc()
        log.error("%s", text)
        keeper.send_bytes(msgpack.packb({"traceback": text[-TRACEBACK_CHARACTERS:]}))
        sys.exit(1)


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
    """One block and everything that moves it."""

    def __init__(self, job: Job, announcement: Announcement, k: int, generation: int) -> None:
        self._job = job
        self._k = k
        self._generation = generation
        self._announcement = announcement
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._links: dict[Side, Link] = {}
        self._thread_failure: BaseException | None = None
        self._final: tuple[bytes, bytes] | None = None
        self._handed_in = False
        self._last_order_s = math.inf
        self._measuring: dict[str, Any] | None = None
        self._leave = False
        self._coordinator = self._context.socket(zmq.DEALER)
        self._coordinator.setsockopt(zmq.LINGER, 2000)
        self._coordinator.setsockopt(zmq.IDENTITY, f"{k}/{generation}".encode())
        self._coordinator.connect(announcement.coordinator)

    def link(self, rendezvous: Rendezvous) -> None:
        """Build the block, and bind and connect this worker's edges; waits for the neighbours."""
        torch.set_num_threads(self._job.threads)
        above_exists = self._k + 1 < self._job.num_workers
        if above_exists:
            specs = self._job.specs(self._k)
            above = self._make_link(specs, Side.ABOVE, bind=self._bind_address())
            rendezvous.publish_edge(self._k, above.address)
            self._links[Side.ABOVE] = above
        self._block = self._job.build_block(self._k)
        if self._k > 0:
            specs = self._job.specs(self._k - 1)
            address = rendezvous.await_edge(self._k - 1)
            self._links[Side.BELOW] = self._make_link(specs, Side.BELOW, connect=address)

    def _bind_address(self) -> str:
        if self._job.link == "zmq-ipc":
            # An abstract address: it has no file, so nothing is left even after SIGKILL.
            return f"ipc://@loco-{self._announcement.run_id}-{self._k}-{secrets.token_hex(4)}"
        return f"tcp://{self._job.bind}:*"

    def _make_link(
        self, specs: Specs, side: Side, *, bind: str | None = None, connect: str | None = None
    ) -> ZmqLink:
        incoming = {stream: found for stream, found in specs.items() if stream.source is side}
        return ZmqLink(
            self._context,
            run_id=self._announcement.run_id,
            incoming=incoming,
            specs=specs,
            bind=bind,
            connect=connect,
        )

    def train(self) -> None:
        """Train to the end, hand in the result, and stay until the coordinator lets go."""
        job, plan = self._job, self._job.plan(self._k)
        outgoing = {
            stream: found
            for edge in (self._k - 1, self._k)
            if 0 <= edge < job.num_workers - 1
            for stream, found in job.specs(edge).items()
            if stream.target is (Side.BELOW if edge < self._k else Side.ABOVE)
        }
        self._telemetry = Telemetry(
            block=self._k,
            generation=self._generation,
            batch_size=job.batch_size,
            every_s=job.report_every_s,
        )
        self._driver = Driver(
            WorkerCore(plan, generation=self._generation),
            self._block,
            links=self._links,
            outgoing_specs=outgoing,
            telemetry=self._telemetry,
        )
        thread = threading.Thread(target=self._drive, name="driver", daemon=True)
        thread.start()
        self._driver.compute()
        thread.join()
        if self._thread_failure is not None:
            raise self._thread_failure
        self._driver.close()
        self._coordinator.close()
        self._context.term()

    def _drive(self) -> None:
        try:
            self._driver.run(until=self._turn, poll_also=self._coordinator)
        except BaseException as error:
            self._thread_failure = error
        finally:
            self._driver.end_compute()

    def _turn(self) -> bool:
        """Once a turn of the loop: talk to the coordinator; True when it has let go."""
        finished = self._driver.is_done
        report = self._telemetry.due_report(
            self._driver.core.state,
            self._driver.queue_depth,
            force=finished and self._final is None,
        )
        if report is not None:
            self._report(report)
        if finished and self._final is None:
            self._final = self._result()
            self._last_order_s = time.monotonic()
        if self._final is not None and not self._handed_in:
            self._handed_in = self._tell(*self._final)
        self._listen()
        if finished and not self._leave:
            waited_s = time.monotonic() - self._last_order_s
            if waited_s > COORDINATOR_PATIENCE_S:
                raise TimeoutError(f"the coordinator has not answered for {waited_s:.0f} s")
        return self._leave

    def _listen(self) -> None:
        while self._coordinator.poll(0):
            order = msgpack.unpackb(self._coordinator.recv())
            self._last_order_s = time.monotonic()
            if order["kind"] == "measure":
                self._driver.submit(self._measure)
            elif order["kind"] == "leave":
                self._leave = True
        if self._measuring is not None:
            self._report(self._measuring)
            self._measuring = None

    def _report(self, report: dict[str, Any]) -> None:
        """Send a report; one that finds no room is lost, and counted."""
        self._telemetry.dropped_reports += not self._tell(msgpack.packb(report))

    def _tell(self, *frames: bytes) -> bool:
        try:
            self._coordinator.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _result(self) -> tuple[bytes, bytes]:
        """What the coordinator makes the run's result of: figures and digests, and the weights."""
        driver = self._driver
        counters = {
            "sent": driver.sent[Stream.ACTIVATION],
            "trained": driver.core.step,
            "duplicates_dropped": driver.core.num_duplicates,
            "replayed": driver.core.num_replayed,
            "fenced": driver.core.num_fenced,
            "damaged": driver.damaged,
            "dropped_reports": self._telemetry.dropped_reports,
        }
        home = {
            name: tensor.cpu().contiguous() for name, tensor in self._block.home_state().items()
        }
        result = self._telemetry.closing(counters) | {
            "kind": "result",
            "digests": digest.block_records(self._k, self._block.state()),
        }
        return msgpack.packb(result), safetensors.torch.save(home)

    def _measure(self) -> None:
        """Time this block alone, on the compute thread; its state is spent afterwards."""
        inputs, step = self._driver.last_inputs, self._job.num_steps - 1
        arguments = (
            step,
            inputs.get(Stream.TIE_UP),
            inputs.get(Stream.TIE_DOWN),
        )
        walls, cpu_s, began_s = [], 0.0, time.monotonic()
        for repeat in itertools.count():
            wall_0, cpu_0 = time.perf_counter(), time.process_time()
            self._block.forward(step, inputs.get(Stream.ACTIVATION))
            self._block.update(step)
            self._block.apply(*arguments)
            if repeat >= WARM_UP_STEPS:
                walls.append(time.perf_counter() - wall_0)
                cpu_s += time.process_time() - cpu_0
            late = time.monotonic() - began_s > MEASURING_LIMIT_S
            if len(walls) >= (MIN_MEASURED_STEPS if late else MEASURED_STEPS):
                break
        self._measuring = {
            "kind": "measured",
            "block": self._k,
            "step_s": statistics.median(walls),
            "cpu_s": cpu_s / len(walls),
        }
