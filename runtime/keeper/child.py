"""One process under a keeper's care, through all its generations.

Owns its start, what it says, how it ends, and whether it still makes progress. Imports no torch.
"""

import contextlib
import os
import signal
import time
from collections import deque
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

import msgpack

from runtime.core.state import COMPUTING, STATES, State
from runtime.keeper import entry, fork_server
from runtime.program import DONE, Meeting, Program, Start
from runtime.state.status_page import Field, OwnedMemory

RESTART_WINDOW_S = 300.0
FIRST_NOTICE_S = 10.0  # of a phase that lasts; the next one after twice as long
FIRST_NOTICE_OF_A_WAIT_S = 60.0
LEAVING_TIMEOUT_S = 30.0  # from its loop's last turn: what was said may still be on its way
FIRST_STEP_PATIENCE = 5  # times the hang timeout, for the first step of a generation
END_S = 3.0
FORK_POLL_S = 0.05  # while the fork server begins
MOST_CHARACTERS = 200  # of what is told of an end; all of it follows when the job ends
WAIT_MARGIN = 1.1  # a child that waits gives up by itself first
TAKES_MARGIN = 2.0  # over what a process says that a phase takes
OF_ONE_GENERATION = (
    *(Field.TURNS, Field.STATE, Field.STEPS_DONE),
    *(Field.LEAVING, Field.SILENT, Field.SAVING),
)
REMEDY = " (--hang-timeout-s)"
PHASE_REMEDY = " (--phase-timeout-s)"


class Child:
    """A process of a keeper's; a worker (`block` given) with the memory that outlives it."""

    def __init__(
        self,
        context: ForkServerContext,
        body: str,
        program: Program,
        meeting: Meeting,
        *,
        name: str,
        block: int | None = None,
    ) -> None:
        self.block = block
        self.name = name
        self.notices: list[str] = []  # for the user
        self.troubles: list[str] = []  # for the user at rank 0
        self.memory = None if block is None else OwnedMemory(f"loco-{block}")
        self.said: dict[str, Any] = {}
        self.phase, self._phase_s = "", 0.0  # what it does outside the steps, and since when
        self._limit_s = self._notice_s = 0.0
        self._context = context
        self._body = body
        self._program = program
        self._meeting = meeting
        self._this_start = Start(memory=None if self.memory is None else self.memory.paths)
        self._restarts_s: deque[float] = deque()
        self.rest_until_s = 0.0  # when it may be restarted
        self._fruitless = 0  # generations in a row that came no further than those before
        self._reached = 0  # the steps it has completed, or the parts of the coordinator's work
        self._start()

    def _start(self) -> None:
        if self.memory is not None:  # what the one before has left there says nothing of this one
            for word in OF_ONE_GENERATION:
                self.memory.page[word] = 0
        self.pipe, self._theirs = self._context.Pipe()
        who = () if self.block is None else (self.block,)
        self.process: ForkServerProcess = self._context.Process(
            target=entry.run,
            args=(self._body, self._program, self._meeting, *who, self._this_start, self._theirs),
            name=self.name,
        )
        self._is_forked = self._has_lost_server = False
        for key in ("traceback", "end"):  # these are of one generation
            self.said.pop(key, None)
        self._moved_s = self._computing_s = time.monotonic()
        self._enter("starting")
        self._turns = 0
        self._computing: tuple[State, int] | None = None
        self._saving, self._saving_s = 0, self._moved_s
        self.fork()

    def fork(self) -> None:
        """Begin its process, if that has not been done and the fork server is ready for it. Raises
        OSError or EOFError if that can't be done."""
        if self._is_forked:
            return
        with fork_server.surroundings():
            try:
                if not fork_server.is_ready():
                    return
                self.process.start()
            except (EOFError, ConnectionError):  # the server was killed; another one is started
                if self._has_lost_server:
                    raise
                self._has_lost_server = True
                return
        self._theirs.close()
        self._is_forked = True

    def await_fork(self, timeout_s: float) -> None:
        """Have it forked, if the fork server becomes ready in that time: it has words to pass on.
        Raises as `fork` does."""
        until_s = time.monotonic() + timeout_s
        while not self._is_forked and time.monotonic() < until_s:
            time.sleep(FORK_POLL_S)
            self.fork()

    @property
    def has_ended(self) -> bool:
        """Whether there is no process: it has ended, or could not be started."""
        if not self._is_forked:
            return False
        return self.process.pid is None or self.process.exitcode is not None

    @property
    def sources(self) -> "list[Connection | int]":
        """What wakes its keeper: words, and its end."""
        return [self.process.sentinel, self.pipe] if self._is_forked else []

    @property
    def has_ended_well(self) -> bool:
        """Whether it has done all that it had to: user code can end a process with code 0 too."""
        return self.has_ended and self.said.get("end") == DONE

    def tell(self, **facts: object) -> None:
        """Say something to it, if it lives."""
        with contextlib.suppress(OSError):  # it has ended
            self.pipe.send_bytes(msgpack.packb(facts))

    def listen(self) -> bool:
        """Take all that it says; True if it has announced a part of a checkpoint. One that waits
        for the fork server is forked, if that is ready now."""
        self.fork()
        announced = False
        try:
            while self.pipe.poll():
                facts = msgpack.unpackb(self.pipe.recv_bytes())
                announced |= facts.pop("checkpoint", False)
                if "phase" in facts:
                    self._enter(
                        facts.pop("phase"),
                        takes_s=facts.pop("takes_s", 0.0),
                        waits=facts.pop("waits", False),
                    )
                self.notices += [facts.pop("notice")] if "notice" in facts else []
                self.troubles += [facts.pop("trouble")] if "trouble" in facts else []
                self.said |= facts
        except (EOFError, ConnectionError):
            pass  # it has ended, and says nothing more
        return announced

    def _enter(self, phase: str, *, takes_s: float = 0.0, waits: bool = False) -> None:
        now_s = time.monotonic()
        self.phase, self._phase_s = phase, now_s
        program = self._program
        self._limit_s = max(program.phase_timeout_s, TAKES_MARGIN * takes_s)
        if waits:  # longer than the other's phases, all its generations included
            self._limit_s = WAIT_MARGIN * program.patience_s
        self._moved_s = self._computing_s = now_s  # if it is the last phase that has ended
        self._notice_s = FIRST_NOTICE_OF_A_WAIT_S if waits else FIRST_NOTICE_S

    @property
    def named(self) -> str:
        """Its name, with its process's number if it has been forked."""
        pid = self.process.pid
        return self.name if pid is None else f"{self.name} (pid {pid})"

    def notice(self, now_s: float) -> str:
        """What to tell the user of a phase that lasts; "" if there is nothing new to tell."""
        lasted_s = now_s - self._phase_s
        if not self.phase or lasted_s < self._notice_s:
            return ""
        self._notice_s = 2 * lasted_s
        end = f"it is replaced after {self._limit_s:.0f} s{self._remedy}"
        return f"{self.name} has been {self.phase} for {lasted_s:.0f} s; {end}"

    @property
    def _remedy(self) -> str:
        """The flag, if the limit is the flag's figure."""
        return PHASE_REMEDY if self._limit_s == self._program.phase_timeout_s else ""

    def hangs(self, now_s: float) -> str:
        """Why it is taken to make no progress; "" if it does.

        Outside the steps every phase is bounded. A loop that does not turn hangs, whatever it
        waits for. Of its states only computing is bounded, so that one that waits in good health
        is left alone. The time until a snapshot is durable is bounded likewise.
        """
        if not self.phase:
            return "" if self.memory is None else self._hangs_in_the_steps(self.memory, now_s)
        lasted_s = now_s - self._phase_s
        if lasted_s <= self._limit_s:
            return ""
        return f"it has been {self.phase} for {lasted_s:.1f} s{self._remedy}"

    def _hangs_in_the_steps(self, memory: OwnedMemory, now_s: float) -> str:
        page, limit_s = memory.page, self._program.hang_timeout_s
        if page[Field.TURNS] != self._turns:
            self._turns, self._moved_s = page[Field.TURNS], now_s
        if page[Field.LEAVING]:
            limit_s = max(limit_s, LEAVING_TIMEOUT_S)
        if now_s - self._moved_s > limit_s:
            return f"its loop has not turned for {now_s - self._moved_s:.1f} s{REMEDY}"
        computing = (STATES[page[Field.STATE]], page[Field.STEP])
        if computing != self._computing or computing[0] not in COMPUTING:
            self._computing, self._computing_s = computing, now_s
        if page[Field.STEPS_DONE] == 0:
            limit_s *= FIRST_STEP_PATIENCE
        if now_s - self._computing_s > limit_s:
            what, step = computing
            return f"the {what.value} of step {step} has not ended in {limit_s:.1f} s{REMEDY}"
        saving = page[Field.SAVING]
        waits = page[Field.CHECKPOINT] > page[Field.CHECKPOINT_DONE]  # it may wait for the disk
        if saving != self._saving or saving == 0 or waits:
            self._saving, self._saving_s = saving, now_s
        if now_s - self._saving_s > limit_s:
            return f"the snapshot of step {saving - 1} has not ended in {limit_s:.1f} s{REMEDY}"
        return ""

    def count_restart(self, now_s: float) -> str:
        """Count a restart; why it is one too many, "" if it is not.

        Too many in RESTART_WINDOW_S, or as many generations in a row without progress, however
        long each took.
        """
        limit = self._program.max_worker_restarts
        self._restarts_s.append(now_s)
        while self._restarts_s[0] < now_s - RESTART_WINDOW_S:
            self._restarts_s.popleft()
        reached: int = self.said.get("reached", 0)
        if self.memory is not None:
            reached = self.memory.page[Field.COMPLETED]
        self._fruitless = 0 if reached > self._reached else self._fruitless + 1
        self._reached = reached
        if len(self._restarts_s) > limit:
            return f"more than {limit} restarts in {RESTART_WINDOW_S:.0f} s"
        return f"{limit} restarts without progress" if self._fruitless > limit else ""

    def forgive(self, now_s: float) -> None:
        """Begin to watch anew: the keeper itself was not there for a while."""
        self._moved_s = self._computing_s = self._saving_s = self._phase_s = now_s

    def restart(self, cause: str, *, hung: bool = False) -> None:
        """Begin its next generation; the one before has ended, because it hung or otherwise."""
        assert self.has_ended, "two generations at once: one would be a zombie"
        self.pipe.close()
        self.process.close()
        self._this_start = Start(
            generation=self._this_start.generation + 1,
            cause=cause,
            detected_t=time.time(),
            hung_in=self.phase if hung else "",
            known=self.said.get("known", {}),
            memory=self._this_start.memory,
        )
        self._start()

    def end(self, number: int) -> None:
        """Send a signal to it, if it lives; a stopped process is woken for it."""
        if self._is_forked and not self.has_ended:
            assert self.process.pid is not None
            with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
                os.kill(self.process.pid, signal.SIGCONT)
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it now, and wait until it has; a fork server that does not come to fork it too."""
        if not self._is_forked:
            fork_server.end()
            self._theirs.close()
            self._is_forked = True  # into nothing
        self.end(signal.SIGKILL)
        self.join(END_S)

    def join(self, timeout_s: float) -> None:
        """Wait for its end, if there is a process."""
        if self.process.pid is not None:
            self.process.join(timeout_s)

    def how_it_ended(self) -> str:
        """In words, with the last line of its traceback if it left one."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"was killed by {signal_name(-code)}"
        if code == 0:
            return "left with exit code 0 before its end: did user code exit?"
        lines = self.said.get("traceback", "").rstrip().splitlines()
        return f"failed with exit code {code}" + (f" ({_cut(lines[-1])})" if lines else "")

    def close(self) -> None:
        self.pipe.close()
        if self.memory is not None:
            self.memory.close()


def _cut(line: str) -> str:
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} ..."


def signal_name(number: int) -> str:
    """A signal by its name, if it has one."""
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")
