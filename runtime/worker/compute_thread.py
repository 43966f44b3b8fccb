"""What one worker's compute thread does: the block's phases, and snapshots of its state.

Owns the block while it trains, what is issued to it, and what it has done and nobody has heard
of. When something is to be done is the core's choice; it is told by whoever calls `settle`.
"""

import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor

from runtime.block import LEFT, BlockStep, Leaving
from runtime.core.messages import Compute, Computed, Phase, Snapshot
from runtime.core.plan import Stream
from runtime.faults.injector import Injector
from runtime.state.saving import Saver, with_tie_stats
from runtime.worker.inbox import Ready
from runtime.worker.outbox import Made
from runtime.worker.telemetry import Figures, Stopwatch, figures_of

Work = Ready | Snapshot


class Done(NamedTuple):
    """What was done, what it made, and the block's figures and time.monotonic at its end; what was
    made may be read when it has left."""

    event: Computed
    made: Made
    figures: Figures
    ended_s: float
    leaving: Leaving = LEFT


class Saved(NamedTuple):
    """The state before a step was saved, from and until when (time.monotonic); `save_part` makes
    it a part of a checkpoint too, if it is to be one."""

    step: int
    save_part: Callable[[], None] | None
    began_s: float
    ended_s: float


class ComputeThread:
    """The compute thread. It alone touches the block while that trains, and does what is issued
    in order.

    `settle` is called when something is done and nothing issued, so that what follows need
    not wait for another thread; `wake` whenever something is done. `retain_all` is called before a
    state is saved: it returns when all that was made is retained, or False if that can't be.
    """

    def __init__(
        self,
        block: BlockStep,
        *,
        saver: Saver,
        injector: Injector,
        stopwatch: Stopwatch,
        settle: Callable[[], None],
        retain_all: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        self.block = block
        self.failure: BaseException | None = None
        self._saver = saver
        self._injector = injector
        self._stopwatch = stopwatch
        self._settle = settle
        self._retain_all = retain_all
        self._wake = wake
        self._works: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._done: deque[Done | Saved] = deque()
        self._is_ending = False

    # Any thread -------------------------------------------------------------------------------

    def issue(self, work: Work) -> None:
        """Let something be done behind all that was issued; what that uses is expected."""
        if isinstance(work, Ready):
            for payload in (work.activation, work.from_below, work.from_above):
                if payload is not None:
                    self.block.expect(payload)
        self._works.put(work)

    def take_done(self) -> Done | Saved | None:
        """The next that was done, once."""
        return self._done.popleft() if self._done else None

    def end(self) -> None:
        """Let `run` return when what it is at is done."""
        self._is_ending = True
        self._works.put(None)

    # The compute thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Do what is issued, until there is no more. Raises what the block raised."""
        while (work := self._works.get()) is not None:
            if self._is_ending:
                continue
            try:
                self._do(work)
                if self._done and self._works.empty():
                    self._settle()
            except BaseException as error:
                self.failure = error
                raise
            finally:
                del work  # it holds a payload, and the next may be long in coming
                self._wake()

    def _do(self, work: Work) -> None:
        match work:
            case Ready():
                self._compute(work.action, work)
            case Snapshot():
                self._take_snapshot(work)

    def _compute(self, action: Compute, ready: Ready) -> None:
        """One phase of a step."""
        block, step, absent = self.block, action.step, False
        self._injector.begin(action.phase, step)
        began_s = time.monotonic()
        made: Made = {}
        match action.phase:
            case Phase.FORWARD:
                made = {Stream.ACTIVATION: block.forward(step, ready.activation)}
            case Phase.UPDATE:
                ties = block.update(step)
                made, absent = {Stream.TIE_UP: ties.up, Stream.TIE_DOWN: ties.down}, ties.absent
            case Phase.APPLY:
                block.apply(step, ready.from_below, ready.from_above)
        self._injector.end(step, time.monotonic() - began_s)
        self._note_done(Computed(phase=action.phase, step=step, absent=absent), began_s, made)

    def _note_done(self, event: Computed, began_s: float, made: Made) -> None:
        ended_s = time.monotonic()
        self._stopwatch.computed_s += ended_s - began_s
        leaving = self.block.leaving if made else LEFT
        self._done.append(Done(event, made, figures_of(self.block), ended_s, leaving))

    def _take_snapshot(self, action: Snapshot) -> None:
        """Save the block's state, behind all that was made before it: a new generation that begins
        with it makes none of that again."""
        if not self._retain_all():
            return
        began_s, step = time.monotonic(), action.step
        state: Mapping[str, Tensor] = self.block.state()
        if action.tie_stats is not None:
            state = with_tie_stats(state, action.tie_stats)
        self._saver.take(step, state, checkpoint=action.checkpoint)
        save_part = partial(self._saver.save_part, step) if action.checkpoint else None
        self._done.append(Saved(step, save_part, began_s, time.monotonic()))
