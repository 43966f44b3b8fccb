"""A worker's reporter and a coordinator's socket, over a status and a clock of the test's."""

import math
from dataclasses import replace

import msgpack
import torch
import zmq

from runtime.core.state import State
from runtime.core.stats import CoreStats
from runtime.core.tie_stats import TieStats
from runtime.program import Start
from runtime.records.schema import Report, WorkerResult, from_dict
from runtime.records.trace import Trace
from runtime.state.status_page import OwnedMemory
from runtime.worker.driver import DriverStatus
from runtime.worker.lookup import Lookup
from runtime.worker.reporter import Reporter
from runtime.worker.telemetry import Telemetry

NUM_STEPS = 12
WEIGHT = torch.arange(4.0)
# All share memory, which safetensors refuses.
HOME = {"in.weight": WEIGHT, "mid.weight": WEIGHT.view(2, 2), "out.weight": WEIGHT.view(2, 2).T}
STATE = {"home.weight": torch.arange(3.0), "step": torch.tensor(NUM_STEPS)}


class Block:
    """What a reporter sees of a block."""

    loss = 2.5
    probe_top1 = 0.25
    num_bad_steps = 1

    def home_state(self):
        return HOME

    def state(self):
        return STATE


class Clock:
    """One clock for all."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    time = monotonic


class Conversation:
    """A worker's reporter and a coordinator's socket, in one process."""

    def __init__(self, memory: OwnedMemory, clock: Clock) -> None:
        self.page = memory.page
        self.clock = clock
        self.moved_to: str | None = None
        self._context = zmq.Context()
        self._context.sndhwm = self._context.rcvhwm = 10  # that fills at once
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind("inproc://coordinator")
        self._reporter: Reporter | None = None

    def begin(
        self, *, k: int = 1, generation: int = 0, every_s: float = math.inf
    ) -> "Conversation":
        """Begin the worker's next generation."""
        if self._reporter is not None:
            self._reporter.close()
        telemetry = Telemetry(
            block=k,
            start=Start(generation=generation),
            page=self.page,
            batch_size=8,
            every_s=every_s,
            from_step=0,
            fill_steps=1,
            trace=Trace(None, 0),
        )
        self.block, self.telemetry = Block(), telemetry
        self.core = CoreStats(
            state=State.FORWARD,
            step=0,
            reached=0,
            stop_at=None,
            end=NUM_STEPS,
            is_stopping=False,
            pending_snapshot=None,
            num_activations_sent=NUM_STEPS,
            num_resent=0,
            num_duplicates=0,
            num_fenced=0,
            tie_stats=TieStats(),
        )
        self.num_damaged = self.num_refused = 0
        self._reporter = Reporter(
            self._context,
            "inproc://coordinator",
            block=self.block,
            telemetry=telemetry,
            page=self.page,
            block_index=k,
            generation=generation,
            admission=None,
            coordinator=Lookup(lambda: self.moved_to, "coordinator"),
            tell=lambda text: None,
            num_refused=lambda: self.num_refused,
        )
        self.identity = f"{k}/{generation}".encode()
        return self

    def turn(self) -> bool:
        """One turn of the worker's loop; True if it may leave."""
        is_done = self.core.state is State.DONE
        return self._reporter.turn(
            DriverStatus(
                core=self.core, is_done=is_done, queue_depth=2, num_damaged=self.num_damaged
            )
        )

    def now(self, **changes: object) -> None:
        """What the core says from now on."""
        self.core = replace(self.core, **changes)

    def finish(self, *, end: int = NUM_STEPS) -> bool:
        """All steps are done; the turn that follows."""
        self.now(state=State.DONE, step=end, end=end, is_stopping=end < NUM_STEPS)
        return self.turn()

    def move(self) -> None:
        """The coordinator dies, and another takes its place elsewhere."""
        self.moved_to = "inproc://elsewhere"
        self._socket.close(0)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(self.moved_to)

    def order(self, kind: str) -> None:
        self._socket.poll(0)  # it takes notice of who is there
        self._socket.send_multipart([self.identity, kind.encode()])

    def hand_in(self) -> tuple[WorkerResult, bytes]:
        """The result of a worker that is asked for it."""
        self.order("hand-in")
        self.turn()
        (found,) = self.results()
        return found

    def reports(self) -> list[Report]:
        """The reports that have come; the rest is forgotten."""
        return [
            from_dict(Report, msgpack.unpackb(said))
            for kind, *frames in self._heard()
            if kind == b"report"
            for _, said in [frames]
        ]

    def results(self) -> list[tuple[WorkerResult, bytes]]:
        """The results that have come, with their weights; the rest is forgotten."""
        return [
            (from_dict(WorkerResult, msgpack.unpackb(frames[1])), b"".join(frames[2:]))
            for kind, *frames in self._heard()
            if kind == b"result"
        ]

    def goodbyes(self) -> int:
        """How often it has said that it leaves; the rest is forgotten."""
        return self._heard().count([b"left"])

    def _heard(self) -> list[list[bytes]]:
        found = []
        while self._socket.poll(0):
            identity, *frames = self._socket.recv_multipart()
            assert identity == self.identity
            found.append(frames)
        return found

    def end(self) -> None:
        self._context.destroy(linger=0)
