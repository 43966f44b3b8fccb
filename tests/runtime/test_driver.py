"""The driver with real links, memory and savers, and blocks that the test holds by the hand."""

import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
import zmq

from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.core.worker import State, WorkerCore
from runtime.driver import Driver
from runtime.fault_log import FaultLog
from runtime.injection import Injector
from runtime.links.link import LinkError
from runtime.links.zeromq import ZmqLink
from runtime.memory import OwnedMemory, Word
from runtime.neighbours import Neighbours
from runtime.program import Life
from runtime.retention import Retention
from runtime.saving import Saver
from runtime.step import TensorSpec
from runtime.telemetry import Telemetry

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
        values = [None if tie is None else float(tie[0][0]) for tie in (from_below, from_above)]
        self.calls.append(("apply", step, *values))

    def home_state(self):
        return {}

    def state(self):
        return {"calls": torch.tensor(len(self.calls))}


class Seat:
    """One worker's place: its plan and memory, which lives of it come and go."""

    def __init__(self, context, address, run_dir, plan, k) -> None:
        self.memory = OwnedMemory(f"seat-{k}")
        self.announced: list[int] = []
        self.patience_s = float(TIMEOUT_S)
        self._context = context
        self._address = address
        self._log = FaultLog(run_dir, generation=0)
        self._plan = plan
        self._k = k
        self._generation = -1

    def begin(self, block) -> Driver:
        """Begin the next life: with the snapshot, and what was kept, of those before."""
        self._generation += 1
        page, side = self.memory.page, SIDES[self._k]
        specs = {stream: SPECS[stream] for stream in self._plan.outgoing}
        retention = Retention(self.memory.paths.messages, self._plan, specs)
        saver = Saver(
            self.memory.paths,
            page,
            retention,
            self._plan,
            announce=self._announced,
            between=lambda step: None,
        )
        step, _ = saver.latest() or (0, {})
        core = WorkerCore(
            self._plan,
            generation=self._generation,
            start_step=step,
            kept=retention.kept(step),
            reached=page[Word.REACHED],
        )
        links = {side: self._link(side)}
        return Driver(
            core,
            block,
            links=links,
            neighbours=Neighbours(
                links, find_below=lambda: self._address, patience_s=self.patience_s
            ),
            outgoing_specs=specs,
            telemetry=Telemetry(
                block=self._k,
                life=Life(generation=self._generation),
                page=page,
                batch_size=8,
                every_s=60,
                from_step=step,
            ),
            retention=retention,
            saver=saver,
            page=page,
            injector=Injector((), self._k, self._log, keeper_pid=0),
        )

    def _announced(self) -> None:
        page = self.memory.page
        self.announced.append(page[Word.CHECKPOINT] - 1)
        page[Word.CHECKPOINT_DONE] = page[Word.CHECKPOINT]

    def _link(self, side: Side) -> ZmqLink:
        incoming = {stream: specs for stream, specs in SPECS.items() if stream.source is side}
        where = {"bind" if side is Side.ABOVE else "connect": self._address}
        return ZmqLink(self._context, run_id="test", incoming=incoming, specs=SPECS, **where)


class Pair:
    """Two drivers, lower and upper, over one edge; each computes on a thread of the test."""

    def __init__(self, context, run_dir, *, num_steps: int, lag: int, blocks, **every) -> None:
        up = Window(max_messages=2, max_bytes=32, message_bytes=16, max_retained=16)
        down = Window(max_messages=4, max_bytes=64, message_bytes=16, max_retained=16)
        windows, below = dict.fromkeys(UP, up), dict.fromkeys(DOWN, down)
        plans = (
            WorkerPlan(num_steps=num_steps, lag=lag, incoming=below, outgoing=windows, **every),
            WorkerPlan(num_steps=num_steps, lag=lag, incoming=windows, outgoing=below, **every),
        )
        address = f"ipc://@test-driver-{secrets.token_hex(6)}"
        self.seats = [Seat(context, address, run_dir, plan, k) for k, plan in enumerate(plans)]
        self.drivers = [seat.begin(block) for seat, block in zip(self.seats, blocks, strict=True)]
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, *ks: int, until: Callable[[Driver], bool] = lambda driver: False) -> None:
        """Start workers (all: none is named); each ends with the job, or where `until` holds."""
        for k in ks or range(2):
            for body in (self._loop, self._compute):
                arguments = (self.drivers[k], until) if body == self._loop else (self.drivers[k],)
                thread = threading.Thread(target=body, args=arguments, daemon=True)
                thread.start()
                self._threads.append(thread)

    def _loop(self, driver: Driver, until: Callable[[Driver], bool]) -> None:
        try:
            driver.run(until=lambda: self._is_over() or until(driver))
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
        return self._stop.is_set() or all(driver.is_done for driver in self.drivers)

    def join(self, *, last: int = 0) -> None:
        """Wait for all threads, or the `last` ones."""
        for thread in self._threads[-last:]:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "a thread did not end"

    def replace(self, k: int, block) -> None:
        """End a worker's life, which has left its loop, and begin its next one."""
        self.drivers[k].close()
        self.drivers[k] = self.seats[k].begin(block)
        self.start(k)

    def end(self) -> None:
        self._stop.set()
        for driver in self.drivers:
            driver.close()
        for seat in self.seats:
            seat.memory.close()


@pytest.fixture
def make_pair(tmp_path) -> Iterator:
    context = zmq.Context()
    pairs = []

    def make(**arguments):
        pairs.append(Pair(context, tmp_path, **arguments))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.end()
    context.destroy(linger=0)


def test_two_workers_train_to_the_end_with_the_right_messages(make_pair):
    blocks = HeldBlock(), HeldBlock()
    pair = make_pair(num_steps=4, lag=1, blocks=blocks)
    pair.start()
    pair.join()
    assert pair.failures == []
    assert blocks[0].calls == [
        call
        for step in range(4)
        for call in (("forward", step, 0.0), ("apply", step, None, 19.0 + step if step else None))
    ]
    assert blocks[1].calls == [
        call
        for step in range(4)
        for call in (("forward", step, 1.0), ("apply", step, 10.0 + step, None))
    ]
    assert [driver.core.state for driver in pair.drivers] == [State.DONE] * 2
    lower, upper = (driver.core.edges.outgoing for driver in pair.drivers)
    assert {stream: outgoing.sent for stream, outgoing in lower.items()} == dict.fromkeys(UP, 4)
    assert upper[Stream.TIE_DOWN].sent == 3  # the last would be due after the end


def test_the_loop_leaves_the_compute_threads_number_of_threads_alone(make_pair):
    """The loop once set its own number of threads to 1, and so the process's default.

    A compute thread that had not computed yet then took 1 too, whatever the config said.
    """

    class Notes(HeldBlock):
        def forward(self, step, incoming):
            self.calls.append(torch.get_num_threads())
            return super().forward(step, incoming)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        blocks = Notes(), Notes()
        pair = make_pair(num_steps=1, lag=1, blocks=blocks)
        pair.start()
        pair.join()
    finally:
        torch.set_num_threads(before)
    assert pair.failures == []
    assert [block.calls[0] for block in blocks] == [3, 3]


def test_the_activation_leaves_before_the_backward_starts(make_pair):
    lower, upper = HeldBlock(held=True), HeldBlock(held=True)
    pair = make_pair(num_steps=2, lag=1, blocks=(lower, upper))
    pair.start()
    assert lower.begun.get(timeout=TIMEOUT_S) == ("forward", 0)
    lower.allow()
    assert lower.begun.get(timeout=TIMEOUT_S) == ("update", 0)
    # The lower block is held at the door of its update; the upper one has its input already.
    assert upper.begun.get(timeout=TIMEOUT_S) == ("forward", 0)
    for block in (lower, upper):
        for _ in range(8):
            block.allow()
    pair.join()
    assert pair.failures == []


def test_the_next_batch_is_received_while_the_present_one_is_computed(make_pair):
    lower, upper = HeldBlock(), HeldBlock(held=True)
    pair = make_pair(num_steps=3, lag=2, blocks=(lower, upper))
    arrived = threading.Event()
    handle = pair.drivers[1].core.handle

    def watching(event):
        actions = handle(event)
        if pair.drivers[1].core.edges.incoming[Stream.ACTIVATION].expected == 2:
            arrived.set()
        return actions

    pair.drivers[1].core.handle = watching
    pair.start()
    assert upper.begun.get(timeout=TIMEOUT_S) == ("forward", 0)
    assert arrived.wait(TIMEOUT_S), "batch 1 was not taken in during batch 0's forward"
    for _ in range(9):
        upper.allow()
    pair.join()
    assert pair.failures == []


def test_what_the_block_raises_ends_both_threads(make_pair):
    class Fails(HeldBlock):
        def update(self, step):
            raise RuntimeError("no update today")

    pair = make_pair(num_steps=3, lag=1, blocks=(HeldBlock(), Fails()))
    pair.start()
    pair.join()
    assert [str(failure) for failure in pair.failures] == ["no update today"]


def test_a_tensor_that_was_not_agreed_on_is_refused(make_pair):
    class Wrong(HeldBlock):
        def forward(self, step, incoming):
            return (torch.zeros(5),)

    pair = make_pair(num_steps=3, lag=1, blocks=(Wrong(), HeldBlock()))
    pair.start()
    pair.join()
    (failure,) = pair.failures
    assert isinstance(failure, ValueError)
    assert "(5,)" in str(failure)
    assert "(4,)" in str(failure)


def test_a_silent_neighbour_is_an_error_not_a_wait(make_pair):
    pair = make_pair(num_steps=3, lag=1, blocks=(HeldBlock(), HeldBlock()))
    pair.drivers[0].close()
    pair.seats[0].patience_s = 0.3
    pair.drivers[0] = pair.seats[0].begin(HeldBlock())
    pair.start(0)
    lower = pair.drivers[0]
    pair.drivers[1].run(until=lambda: lower.core.edges.are_linked)
    pair.join()  # nobody turns the upper one's loop any more
    (failure,) = pair.failures
    assert isinstance(failure, LinkError)
    assert "no word from the worker above" in str(failure)


# Absent ties, pages, lives ----------------------------------------------------------------------


def test_a_tie_that_is_not_finite_is_left_out_by_the_partner(make_pair):
    class Bad(HeldBlock):
        def update(self, step):
            ties = super().update(step)
            return Ties(up=None, down=None, absent=True) if step == 1 else ties

    blocks = Bad(), Bad()
    pair = make_pair(num_steps=4, lag=1, blocks=blocks)
    pair.start()
    pair.join()
    assert pair.failures == []
    applied = [[call[2:] for call in block.calls if call[0] == "apply"] for block in blocks]
    assert applied[0] == [(None, None), (None, 20.0), (None, None), (None, 22.0)]
    assert applied[1] == [(10.0, None), (None, None), (12.0, None), (13.0, None)]


def test_the_page_says_how_far_a_worker_is(make_pair):
    pair = make_pair(num_steps=5, lag=1, blocks=(HeldBlock(), HeldBlock()), snapshot_every=2)
    pair.start()
    pair.join()
    for seat in pair.seats:
        page = seat.memory.page
        assert list(State)[page[Word.STATE]] is State.DONE
        assert [page[w] for w in (Word.STEP, Word.STEPS_DONE, Word.REACHED)] == [5, 5, 5]
        assert (page[Word.COMPLETED], page[Word.RETRAINED], page[Word.STOP_AT]) == (5, 0, 0)
        assert page[Word.TURNS] > 5
        assert seat.announced == [5]  # where the job ends there is a checkpoint


def test_checkpoints_are_taken_at_the_steps_of_the_plan(make_pair):
    blocks = HeldBlock(), HeldBlock()
    every = {"snapshot_every": 2, "checkpoint_every": 3}
    pair = make_pair(num_steps=7, lag=2, blocks=blocks, **every)
    pair.start()
    pair.join()
    assert pair.failures == []
    assert [seat.announced for seat in pair.seats] == [[3, 6, 7]] * 2


@pytest.mark.parametrize("k", [0, 1])
def test_a_worker_that_is_replaced_goes_on_from_its_snapshot(make_pair, k):
    """The other one trains each step once, on the same messages as if nothing had happened."""
    undisturbed = HeldBlock(), HeldBlock()
    pair = make_pair(num_steps=9, lag=1, blocks=undisturbed, snapshot_every=3)
    pair.start()
    pair.join()

    blocks = [HeldBlock(), HeldBlock()]
    pair = make_pair(num_steps=9, lag=1, blocks=blocks, snapshot_every=3)
    pair.start(1 - k)
    pair.start(k, until=lambda driver: driver.core.step == 5)
    pair.join(last=2)
    again = HeldBlock()
    pair.replace(k, again)
    pair.join()

    assert pair.failures == []
    assert blocks[1 - k].calls == undisturbed[1 - k].calls
    assert again.calls == undisturbed[k].calls[2 * 3 :]  # from the snapshot of step 3 on
    page = pair.seats[k].memory.page
    assert (page[Word.COMPLETED], page[Word.REACHED]) == (9, 9)
    assert page[Word.RETRAINED] == 2


def test_a_wish_to_stop_ends_both_at_one_step_with_a_checkpoint(make_pair):
    class Wishes(HeldBlock):
        page = None

        def update(self, step):
            if step == 3:
                self.page[Word.STOP_WANTED] = 1
            return super().update(step)

    lower = Wishes()
    pair = make_pair(num_steps=10**6, lag=1, blocks=(lower, HeldBlock()), snapshot_every=4)
    lower.page = pair.seats[0].memory.page
    pair.start()
    pair.join()
    assert pair.failures == []
    (step,) = {driver.core.step for driver in pair.drivers}
    assert 3 < step < 10**6
    for seat in pair.seats:
        assert seat.memory.page[Word.STOP_AT] == step + 1
        assert seat.announced == [step]
