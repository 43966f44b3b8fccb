"""Two drivers with real links, memory and savers, and blocks that a test holds by the hand."""

import math
import queue
import secrets
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
import zmq

from runtime.block import LEFT, TensorSpec
from runtime.core.plan import Free, Side, Stream, Window, WorkerPlan
from runtime.core.worker import WorkerCore
from runtime.faults.injector import Injector
from runtime.faults.log import FaultLog
from runtime.links.edge import EdgeLink
from runtime.links.link import End
from runtime.links.shared_memory import shm_link
from runtime.links.zeromq import zmq_link
from runtime.program import Start
from runtime.records.trace import Trace
from runtime.state.retention import NeighboursRetention, Retention
from runtime.state.saving import Saver
from runtime.state.snapshots import Snapshots
from runtime.state.status_page import Field, OwnedMemory
from runtime.worker.driver import Driver
from runtime.worker.liveness import Liveness
from runtime.worker.lookup import Lookup
from runtime.worker.telemetry import Telemetry

SPEC = TensorSpec(shape=(4,), dtype="float32")
SPECS = dict.fromkeys(Stream, (SPEC,))
UP = (Stream.ACTIVATION, Stream.TIE_UP)
DOWN = (Stream.TIE_DOWN,)
SIDES = (Side.ABOVE, Side.BELOW)
TIMEOUT_S = 20


class Ties(NamedTuple):
    up: tuple[torch.Tensor, ...] | None
    down: tuple[torch.Tensor, ...] | None
    absent: bool = False


class HeldBlock:
    """Notes each call, and goes on only when the test allows the phase."""

    loss = 1.5
    probe_top1 = 0.5
    num_bad_steps = 0

    def __init__(self, *, held: bool = False) -> None:
        self.calls: list[tuple] = []
        self.begun: queue.Queue[tuple[str, int]] = queue.Queue()
        self._allowed: queue.Queue[None] | None = queue.Queue() if held else None

    def allow(self) -> None:
        assert self._allowed is not None
        self._allowed.put(None)

    def _phase(self, name: str, step: int) -> None:
        self.begun.put((name, step))
        if self._allowed is not None:
            self._allowed.get(timeout=TIMEOUT_S)

    leaving = LEFT

    def expect(self, payload):
        """It uses payloads where they are."""

    def will_read(self, memory):
        """It reads there as it is."""

    def forward(self, step, incoming):
        self._phase("forward", step)
        value = 0.0 if incoming is None else float(incoming[0][0])
        self.calls.append(("forward", step, value))
        return (torch.full((4,), value + 1),)

    def update(self, step):
        self._phase("update", step)
        return Ties(up=(torch.full((4,), 10.0 + step),), down=(torch.full((4,), 20.0 + step),))

    def apply(self, step, from_below, from_above):
        self._phase("apply", step)
        ties = (from_below, from_above)  # of free gradients a tensor a message
        values = [None if tie is None else sum(float(t[0]) for t in tie) for tie in ties]
        self.calls.append(("apply", step, *values))

    def home_state(self):
        return {}

    def state(self):
        return {"calls": torch.tensor(len(self.calls))}


class Seat:
    """One worker's place: its plan and memory, which generations of it come and go."""

    def __init__(self, address, run_dir, plan, k, *, patience_s: float) -> None:
        self.memory = OwnedMemory(f"seat-{k}")
        self.other: Seat | None = None  # with whom memory is shared
        self.specs = {stream: SPECS[stream] for stream in plan.outgoing}
        Retention(self.memory.paths.messages, plan, self.specs)  # so that it can be mapped
        self.announced: list[int] = []
        self._context = zmq.Context()
        self._patience_s = patience_s
        self._address = address
        self._log = FaultLog(run_dir, generation=0)
        self._plan = plan
        self._k = k
        self._generation = -1

    def begin(self, block) -> Driver:
        """Begin the next generation: with the snapshot, and what was retained, of those before.

        The one before is closed. Its context ends here, so that its address is free.
        """
        self._generation += 1
        self._context.term()
        self._context = zmq.Context()
        page, side = self.memory.page, SIDES[self._k]
        retention = Retention(self.memory.paths.messages, self._plan, self.specs)
        saver = Saver(
            self.memory.paths,
            page,
            retention,
            self._plan,
            announce=self._announced,
            copying=lambda step: None,
            between=lambda step: None,
            tell=lambda text: None,
            max_bytes=math.inf,
        )
        step, _ = saver.take_up() or (0, {})
        core = WorkerCore(
            self._plan,
            generation=self._generation,
            start_step=step,
            retained=retention.retained(step),
            reached=page[Field.REACHED],
        )
        links = {side: self._link(side)}
        return Driver(
            core,
            block,
            links=links,
            liveness=Liveness(
                links,
                below=Lookup(lambda: self._address, "below"),
                block_index=1,
                tell=lambda text: None,
                reach_timeout_s=math.inf,
                patience_s=self._patience_s,
            ),
            outgoing_specs=self.specs,
            telemetry=Telemetry(
                block=self._k,
                start=Start(generation=self._generation),
                page=page,
                batch_size=8,
                every_s=60,
                from_step=step,
                fill_steps=1,
                trace=Trace(None, 0),
            ),
            retention=retention,
            saver=saver,
            page=page,
            injector=Injector((), self._k, self._log, keeper_pid=0),
        )

    def saved(self) -> tuple[int, dict[str, torch.Tensor]]:
        """The latest snapshot: the step that it lies before, and the state."""
        paths = self.memory.paths
        found = Snapshots(live=paths.live, copy=paths.snapshot).latest()
        assert found is not None
        return found

    def end(self) -> None:
        self._context.destroy(linger=0)
        self.memory.close()

    def _announced(self) -> None:
        page = self.memory.page
        self.announced.append(page[Field.CHECKPOINT] - 1)
        page[Field.CHECKPOINT_DONE] = page[Field.CHECKPOINT]

    def _link(self, side: Side) -> EdgeLink:
        end = End(side=side, run_id="test", specs=SPECS)
        where = {"bind" if side is Side.ABOVE else "connect": self._address}
        if self.other is None:
            return zmq_link(self._context, end, **where)
        path = self.other.memory.paths.messages
        memory = NeighboursRetention(path, self.other._plan, self.other.specs)
        return shm_link(self._context, end, memory, **where)


class Pair:
    """Two drivers, lower and upper, over one edge; each computes on a thread of the test."""

    def __init__(
        self,
        run_dir,
        *,
        num_steps: int,
        lag: int,
        blocks,
        patience_s: float = TIMEOUT_S,
        shares_memory: bool = False,
        free: Free | None = None,
        **every: int,
    ) -> None:
        up = Window(max_messages=2, max_bytes=32, message_bytes=16, max_retained=16)
        down = Window(max_messages=4, max_bytes=64, message_bytes=16, max_retained=16)
        windows, below = dict.fromkeys(UP, up), dict.fromkeys(DOWN, down)
        common = {"num_steps": num_steps, "lag": lag, "free": free, **every}
        plans = (
            WorkerPlan(incoming=below, outgoing=windows, **common),
            WorkerPlan(incoming=windows, outgoing=below, **common),
        )
        address = f"ipc://@test-driver-{secrets.token_hex(6)}"
        self.seats = [
            Seat(address, run_dir, plan, k, patience_s=patience_s) for k, plan in enumerate(plans)
        ]
        if shares_memory:
            self.seats[0].other, self.seats[1].other = self.seats[1], self.seats[0]
        self.drivers = [seat.begin(block) for seat, block in zip(self.seats, blocks, strict=True)]
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, *ks: int, until: Callable[[Driver], bool] = lambda driver: False) -> None:
        """Start workers (all: none is named); each ends with the job, or when `until` holds."""
        for k in ks or range(2):
            for body in (self._loop, self._compute):
                arguments = (self.drivers[k], until) if body == self._loop else (self.drivers[k],)
                thread = threading.Thread(target=body, args=arguments, daemon=True)
                thread.start()
                self._threads.append(thread)

    def _loop(self, driver: Driver, until: Callable[[Driver], bool]) -> None:
        try:
            driver.run(until=lambda _: self._is_over() or until(driver))
        except Exception as error:
            self.failures.append(error)
            self._stop.set()
        finally:
            driver.end_compute()

    def _compute(self, driver: Driver) -> None:
        try:
            driver.compute()
        except Exception as error:
            self.failures.append(error)
            self._stop.set()

    def _is_over(self) -> bool:
        return self._stop.is_set() or all(driver.status().is_done for driver in self.drivers)

    def join_loop(self) -> None:
        """Wait until the worker that was started last has left its loop."""
        self._threads[-2].join(TIMEOUT_S)
        assert not self._threads[-2].is_alive(), "a loop did not end"

    def join(self, *, last: int = 0) -> None:
        """Wait for all threads, or the `last` ones."""
        for thread in self._threads[-last:]:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "a thread did not end"

    def replace(self, k: int, block) -> None:
        """End a worker's generation, which has left its loop, and begin its next one."""
        self.drivers[k].close()
        self.drivers[k] = self.seats[k].begin(block)
        self.start(k)

    def end(self) -> None:
        self._stop.set()
        for driver in self.drivers:
            driver.close()
        for seat in self.seats:
            seat.end()
