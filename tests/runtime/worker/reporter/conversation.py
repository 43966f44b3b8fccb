"""A worker's reporter and a coordinator's socket, over a driver and a clock of the test's."""

import math
from types import SimpleNamespace
from typing import Any

import msgpack
import torch
import zmq

from runtime.core.plan import Stream
from runtime.core.tie_stats import Account
from runtime.core.worker import State
from runtime.program import Life
from runtime.records.schema import Report, WorkerResult, from_dict
from runtime.records.trace import Trace
from runtime.state.status_page import OwnedMemory
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


class Driver:
    """What a reporter sees of a driver."""

    queue_depth = 2

    def __init__(self, block: Block, telemetry: Telemetry) -> None:
        self.block = block
        self.telemetry = telemetry
        self.damaged = 0
        edges = SimpleNamespace(
            outgoing={Stream.ACTIVATION: SimpleNamespace(sent=NUM_STEPS)},
            num_replayed=0,
            num_fenced=0,
            num_duplicates=0,
        )
        self.core = SimpleNamespace(
            state=State.FORWARD,
            step=0,
            end=NUM_STEPS,
            edges=edges,
            num_replayed_steps=0,
            account=Account(),
        )

    @property
    def is_done(self) -> bool:
        return self.core.state is State.DONE


class Conversation:
    """A worker's reporter and a coordinator's socket, in one process."""

    def __init__(self, memory: OwnedMemory, clock: Clock) -> None:
        self.page = memory.page
        self.clock = clock
        self.is_over = False
        self.num_asked = 0  # whether it is over
        self._context = zmq.Context()
        self._context.sndhwm = self._context.rcvhwm = 10  # that fills at once
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind("inproc://coordinator")
        self._reporter: Reporter | None = None

    def begin(
        self, *, k: int = 1, generation: int = 0, every_s: float = math.inf
    ) -> "Conversation":
        """Begin the worker's next life."""
        if self._reporter is not None:
            self._reporter.close()
        telemetry = Telemetry(
            block=k,
            life=Life(generation=generation),
            page=self.page,
            batch_size=8,
            every_s=every_s,
            from_step=0,
            fill_steps=1,
            trace=Trace(None, 0),
        )
        self.block = Block()
        self.driver = Driver(self.block, telemetry)
        self._reporter = Reporter(
            self._context,
            "inproc://coordinator",
            self.driver,
            page=self.page,
            k=k,
            generation=generation,
            num_steps=NUM_STEPS,
            patience_s=0.0,
            is_over=self._ask,
        )
        self.identity = f"{k}/{generation}".encode()
        return self

    def _ask(self) -> bool:
        self.num_asked += 1
        return self.is_over

    def turn(self) -> bool:
        """One turn of the worker's loop; True where it may leave."""
        return self._reporter.turn()

    def finish(self, *, end: int = NUM_STEPS) -> bool:
        """All steps are done; the turn that follows."""
        core = self.driver.core
        core.state, core.step, core.end = State.DONE, end, end
        return self.turn()

    def order(self, kind: str) -> None:
        self._socket.poll(0)  # it takes notice of who is there
        self._socket.send_multipart([self.identity, msgpack.packb({"kind": kind})])

    def hand_in(self) -> tuple[WorkerResult, bytes]:
        """The result of a worker that is asked for it."""
        self.order("hand-in")
        self.turn()
        (found,) = self.results()
        return found

    def reports(self) -> list[Report]:
        """The reports that have come; the rest is forgotten."""
        return [from_dict(Report, said) for said, *weights in self._heard() if not weights]

    def results(self) -> list[tuple[WorkerResult, bytes]]:
        """The results that have come, with their weights; the rest is forgotten."""
        heard = self._heard()
        return [(from_dict(WorkerResult, said), weights[0]) for said, *weights in heard if weights]

    def _heard(self) -> list[list[Any]]:
        found = []
        while self._socket.poll(0):
            identity, packed, *weights = self._socket.recv_multipart()
            assert identity == self.identity
            found.append([msgpack.unpackb(packed), *weights])
        return found

    def end(self) -> None:
        self._context.destroy(linger=0)
