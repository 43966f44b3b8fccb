"""The driver with real links and blocks that the test holds by the hand."""

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
import zmq

from runtime import driver as driver_module
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.core.worker import State, WorkerCore
from runtime.driver import Driver
from runtime.links.link import LinkError
from runtime.links.zeromq import ZmqLink
from runtime.step import TensorSpec
from runtime.telemetry import Telemetry

SPEC = TensorSpec(shape=(4,), dtype="float32")
SPECS = dict.fromkeys(Stream, (SPEC,))
UP = (Stream.ACTIVATION, Stream.TIE_UP)
DOWN = (Stream.TIE_DOWN,)
TIMEOUT_S = 20


class Ties(NamedTuple):
    up: tuple[torch.Tensor, ...] | None
    down: tuple[torch.Tensor, ...] | None


class HeldBlock:
    """Notes each call, and goes on only when the test allows the phase."""

    loss = 1.5
    probe_top1 = 0.5

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
        return {}


class Pair:
    """Two drivers, lower and upper, over one edge; each computes on a thread of the test."""

    def __init__(self, context, *, num_steps: int, lag: int, blocks) -> None:
        windows = {stream: Window(max_messages=2, max_bytes=32, message_bytes=16) for stream in UP}
        down = {Stream.TIE_DOWN: Window(max_messages=4, max_bytes=64, message_bytes=16)}
        plans = (
            WorkerPlan(num_steps=num_steps, lag=lag, incoming=down, outgoing=windows),
            WorkerPlan(num_steps=num_steps, lag=lag, incoming=windows, outgoing=down),
        )
        lower = self._link(context, Side.ABOVE, bind="ipc://@test-driver-*")
        upper = self._link(context, Side.BELOW, connect=lower.address)
        sides = (({Side.ABOVE: lower}, UP), ({Side.BELOW: upper}, DOWN))
        self.drivers = [
            Driver(
                WorkerCore(plan),
                block,
                links=links,
                outgoing_specs={stream: SPECS[stream] for stream in outgoing},
                telemetry=Telemetry(block=k, generation=0, batch_size=8, every_s=60),
            )
            for k, (plan, block, (links, outgoing)) in enumerate(
                zip(plans, blocks, sides, strict=True)
            )
        ]
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def _link(self, context, side, **address):
        incoming = {stream: specs for stream, specs in SPECS.items() if stream.source is side}
        return ZmqLink(context, run_id="test", incoming=incoming, specs=SPECS, **address)

    def start(self) -> None:
        for driver in self.drivers:
            for body in (self._loop, self._compute):
                thread = threading.Thread(target=body, args=(driver,), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _loop(self, driver: Driver) -> None:
        try:
            driver.run(until=self._is_over)
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

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "a thread did not end"

    def end(self) -> None:
        self._stop.set()
        for driver in self.drivers:
            driver.close()


@pytest.fixture
def make_pair() -> Iterator:
    context = zmq.Context()
    pairs = []

    def make(**arguments):
        pairs.append(Pair(context, **arguments))
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
    assert pair.drivers[0].sent == {
        Stream.ACTIVATION: 4,
        Stream.TIE_UP: 4,
        Stream.TIE_DOWN: 0,
    }
    assert pair.drivers[1].sent[Stream.TIE_DOWN] == 3  # the last would be due after the end


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
        if pair.drivers[1].core.incoming[Stream.ACTIVATION].expected == 2:
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


def test_a_silent_neighbour_is_an_error_not_a_wait(make_pair, monkeypatch):
    monkeypatch.setattr(driver_module, "SILENCE_TIMEOUT_S", 0.3)
    pair = make_pair(num_steps=3, lag=1, blocks=(HeldBlock(), HeldBlock()))
    silent = pair.drivers[1]
    pair.drivers.remove(silent)
    pair.start()
    silent.run(until=lambda: pair.drivers[0].core.peers[Side.ABOVE] is not None)
    pair.join()  # nobody turns the upper one's loop any more
    silent.close()
    (failure,) = pair.failures
    assert isinstance(failure, LinkError)
    assert "the worker above has been silent" in str(failure)
