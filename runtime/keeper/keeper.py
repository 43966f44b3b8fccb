"""The keeper: starts this rank's processes from a fork server, restarts those that die or hang.

Owns processes, the job's stop and its exit code. It imports no torch, so that a rank starts at
once and stays small. A dead worker costs its own restart; what ends the job is a failure that
would only repeat itself, or too many of them. Nothing is left when it returns.
"""

import contextlib
import multiprocessing.connection
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from runtime.core.state import STATES, State
from runtime.keeper import fork_server
from runtime.keeper.checkpoint_thread import CheckpointThread
from runtime.keeper.child import END_S, FORK_POLL_S, Child
from runtime.lifetime import adopt_orphans, die_with_parent, resume, suspend
from runtime.program import (
    COORDINATOR,
    DONE,
    FINAL,
    NOT_OURS,
    NOT_STARTED,
    REFUSED,
    REGISTRAR,
    WORKER,
    Meeting,
    Member,
    Program,
    StoreAddress,
)
from runtime.records.run_dir import worker_log
from runtime.signals import END, STOPS, relayed
from runtime.state.checkpoint import CheckpointWriter, last_committed, last_complete
from runtime.state.status_page import Field
from runtime.state.storage import is_url, open_storage, reason

POLL_S = 0.25
ABSENCE_S = 5.0  # between two polls: longer than any that was not disturbed
COORDINATOR_REST_S = 30.0  # before one that has died too often comes again
LAST_WRITE_S = 600.0  # for the last checkpoint of a job that has ended well
SILENT_S = 5.0  # that it may take without a word
STOP_S = 10.0  # to reach the step to stop at, and to write the checkpoint there
LEAVE_S = 15.0  # for the registrar to tell the others, and to let them read it
SAME_STOP_S = 5.0  # in which a scheduler's signals to a job's many processes are one
PRIVATE_UMASK = 0o077  # for all that this rank's processes write
SHOW_CURSOR = "\x1b[?25h"


def _open_as_many_files_as_allowed() -> None:
    """Of strangers' connections each takes a descriptor until it is refused."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Keeper:
    """Supervises the worker of one rank under a launcher, or (`rank` None) all workers of a job."""

    def __init__(
        self, program: Program, *, member: Member | None = None, address: str = "127.0.0.1"
    ) -> None:
        """`member` is this rank's place in a launcher's job, if there is a launcher; sockets that
        other hosts reach listen at `address`."""
        self._program = program
        self._member = member
        self._rank = rank = None if member is None else member.rank
        self._speaks = rank in (None, 0)  # this rank has the coordinator, and talks to the user
        self._context = fork_server.make_context(program.preload)
        self._coordinator: Child | None = None
        self._registrar: Child | None = None
        self._workers: list[Child] = []
        self._memory = os.memfd_create("loco-rendezvous") if member is None else -1
        file = StoreAddress(file=f"/proc/{os.getpid()}/fd/{self._memory}")
        self._meeting = Meeting(
            store=file if member is None else member.store,
            keeper_pid=os.getpid(),
            secret=program.secret,
            nonce=secrets.token_hex(16),
            member=member,
            directory=fork_server.directory(),
            address=address,
        )
        self._writer: CheckpointWriter | None = None
        self._signals: list[int] = []  # that stop the job: the first, and one that came again
        self._first_signal_s = 0.0
        self._is_to_suspend = False
        self._stop_by_s = 0.0
        self._stop_heard_s = 0.0
        self._stop_by = ""  # where, if at another rank
        self._why = ""  # this rank has failed
        self._polled_s = time.monotonic()

    def run(self) -> int:
        """Run to the end of the job; return its exit code: 0, 1, 2 (refused) or 128 + signal."""
        before = self._take_signals()
        _open_as_many_files_as_allowed()
        umask = None if self._program.shares_run_dir else os.umask(PRIVATE_UMASK)
        adopt_orphans()  # of a fork server that is killed
        if self._member is not None and self._member.launcher:
            die_with_parent(signal.SIGTERM)  # torchrun's end is a stop, at a checkpoint
        say = partial(self._say, always=True)  # this rank's alone may fail, on its own host
        self._disk = CheckpointThread(self._program.faults, say=say)
        try:
            if self._rank is not None:
                self._registrar = self._child(REGISTRAR, "the registrar")
            if self._speaks:
                self._coordinator = self._child(COORDINATOR, "the coordinator")
            if self._rank is not None:
                self._start_worker(self._rank)
            code = self._watch()
            self._finish_writing(code)
            self._leave(code)
            return code
        except (OSError, EOFError) as error:
            self._say(f"a process can't be started ({error}); the job is ended", always=True)
            return 1
        finally:
            for child in self._children():
                child.kill()
            with contextlib.suppress(OSError):  # no file can be opened, not even to look for them
                fork_server.end_orphans()
            for child in self._children():
                child.close()
            if self._memory >= 0:
                os.close(self._memory)
            if umask is not None:
                os.umask(umask)
            for number, action in before.items():
                signal.signal(number, action)

    def _finish_writing(self, code: int) -> None:
        """Let the last checkpoint of a job that ended well be written, unless a signal comes."""
        if code != 0:
            self._disk.close(END_S)
            return
        num_signals = len(self._signals)  # those that came before have not stopped the job
        if not self._disk.finish(SILENT_S):
            self._say(
                f"the last checkpoint is still being written (at most {LAST_WRITE_S:.0f} s; a"
                " signal leaves it incomplete)",
                always=True,
            )
        if not self._disk.close(LAST_WRITE_S, give_up=lambda: len(self._signals) > num_signals):
            self._say("the last checkpoint was not written in time", always=True)

    def withdraw(self, why: str) -> None:
        """Tell the other ranks that this one can't take part, instead of `run`; returns once rank 0
        can read it, after LEAVE_S at most from when the fork server is ready."""
        self._registrar = self._child(REGISTRAR, "the registrar")
        try:
            self._registrar.tell(presence="failed", why=why)
            self._registrar.await_fork(self._program.phase_timeout_s)
            self._registrar.join(LEAVE_S)
        finally:
            self._registrar.kill()
            fork_server.end_orphans()
            self._registrar.close()

    def _children(self) -> list[Child]:
        others = (self._coordinator, self._registrar)
        return [*(child for child in others if child is not None), *self._workers]

    def _child(self, body: str, name: str, *, block: int | None = None) -> Child:
        return Child(self._context, body, self._program, self._meeting, name=name, block=block)

    def _start_worker(self, block: int) -> None:
        self._workers.append(self._child(WORKER, f"worker {block}", block=block))

    # Signals ----------------------------------------------------------------------------------

    def _take_signals(self) -> dict[int, Any]:
        """Handle signals from now on; return the actions that they had before."""
        taken: dict[int, Any] = dict.fromkeys(STOPS, self._note_signal)
        taken |= {relayed(number): self._note_relayed for number in STOPS}
        taken[signal.SIGTSTP] = self._note_suspension
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as it is under nohup
            del taken[signal.SIGHUP]
            taken[relayed(signal.SIGHUP)] = signal.SIG_IGN
        before = {number: signal.signal(number, action) for number, action in taken.items()}
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return before

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        """A second one ends the job at once, unless it is the first one's copy: a scheduler
        signals a launcher and its ranks, and the launcher passes it on."""
        del frame
        now_s = time.monotonic()
        if not self._signals:
            self._first_signal_s = now_s
        is_by_hand = number == signal.SIGINT and self._rank is None
        is_copy = not is_by_hand and now_s - self._first_signal_s < SAME_STOP_S
        if not self._signals or not is_copy:
            self._signals.append(number)

    def _note_relayed(self, number: int, frame: FrameType | None) -> None:
        """A signal to another of this rank's processes."""
        del frame
        if not self._signals:
            self._first_signal_s = time.monotonic()
            self._signals.append(number - signal.SIGRTMIN)

    def _note_suspension(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._is_to_suspend = True

    def _suspend(self, wait: Callable[[], None]) -> None:
        """Stop all that this keeper has started while `wait` lasts: Ctrl-Z reaches the keeper or
        the launcher alone. No one is blamed for that time."""
        children = [child for child in self._children() if not child.has_ended]
        stopped = suspend(child.process.pid for child in children if child.process.pid is not None)
        if self._coordinator is not None and sys.stdout.isatty():
            print(SHOW_CURSOR, end="", flush=True)  # the live view hides it; a shell needs it
        wait()
        resume(stopped)
        now_s = time.monotonic()
        for child in children:
            child.forgive(now_s)
        self._polled_s = now_s

    def _stop_oneself(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def _await_launcher(self) -> None:
        while not self._signals and self._launcher_is_stopped():
            time.sleep(POLL_S)

    def _launcher_is_stopped(self) -> bool:
        try:
            status = psutil.Process(os.getppid()).status()
        except psutil.Error:  # it has ended, or is root's and hidden
            return False
        return bool(status == psutil.STATUS_STOPPED)

    # The watch --------------------------------------------------------------------------------

    def _watch(self) -> int:
        """Until all have ended well, or the job ends otherwise; never waits longer than a poll."""
        while True:
            living = [child for child in self._children() if not child.has_ended]
            sources = [source for child in living for source in child.sources]
            is_forked = all(child.sources for child in living)
            multiprocessing.connection.wait(sources, POLL_S if is_forked else FORK_POLL_S)
            if self._is_to_suspend:
                self._is_to_suspend = False
                self._suspend(self._stop_oneself)
            elif self._rank is not None and self._launcher_is_stopped():
                self._suspend(self._await_launcher)
            self._forgive_own_absence()
            for child in self._children():
                self._listen(child)
            self._say_what_workers_say()
            if self._all_ended_well() and not self._is_stopped():
                return 0
            if self._registrar is not None and (code := self._heed(self._registrar)) is not None:
                return code
            if self._signals and (code := self._stop()) is not None:
                return code
            for child in self._children():
                if (code := self._look_after(child)) is not None:
                    return code

    def _forgive_own_absence(self) -> None:
        """A keeper that was stopped itself (a paused container) must not blame its children."""
        now_s = time.monotonic()
        if now_s - self._polled_s > ABSENCE_S:
            for child in self._children():
                child.forgive(now_s)
        self._polled_s = now_s

    def _all_ended_well(self) -> bool:
        awaited = [child for child in self._children() if child is not self._registrar]
        return all(child.has_ended_well for child in awaited) and not self._is_spare

    def _is_stopped(self) -> bool:
        """Whether this rank's workers have ended because the job stops. Their neighbour's message
        may come before the signal, or before the registrar tells of another rank's: that is waited
        for, and after STOP_S taken for SIGTERM."""
        if not any(child.said.get("is_stopped") for child in self._workers):
            return False  # they have left a result that is durable
        if not self._signals:
            self._stop_heard_s = self._stop_heard_s or time.monotonic()
            if time.monotonic() - self._stop_heard_s > STOP_S:
                self._signals.append(signal.SIGTERM)
        return True

    @property
    def _is_spare(self) -> bool:
        """Whether this rank has no block: it stays until the others are done, for the launcher may
        take a rank that ends for one that fails."""
        spares = any(worker.said.get("is_spare") for worker in self._workers)
        rank_0_has_left = self._registrar is not None and self._registrar.said.get("has_left")
        return spares and not rank_0_has_left

    def _say_what_workers_say(self) -> None:
        for worker in self._workers:
            told = worker.notices + (worker.troubles if self._registrar is None else [])
            for text in told:
                self._say(text, always=True)
            worker.notices.clear()
            if self._registrar is None:
                worker.troubles.clear()

    def _heed(self, registrar: Child) -> int | None:
        """Do what other ranks want; the exit code if that ends the job."""
        for notice in registrar.notices:
            self._say(notice, always=True)
        registrar.notices.clear()
        for worker in self._workers:
            for trouble in worker.troubles:
                registrar.tell(trouble=trouble)
            worker.troubles.clear()
        is_durable = self._coordinator is not None and self._coordinator.said.get("end") == DONE
        if (over := registrar.said.get("over")) is not None and not is_durable:
            self._end_coordinator()
            self._speaks |= self._member is not None and self._member.speaks_here
            self._say(f"{over}; the job is ended{self._how_to_resume()}")
            return 1
        if (stop := registrar.said.get("stop")) and not self._signals:
            self._first_signal_s = time.monotonic()
            self._signals.append(stop)
            self._stop_by = f" at {registrar.said['stop_by']}"
        return None

    def _listen(self, child: Child) -> None:
        """Take what a child says, and do what it asks for."""
        announced = child.listen()
        if child is self._coordinator and self._rank is None and not self._workers:
            for block in range(child.said.get("num_workers", 0)):
                self._start_worker(block)
        if announced:
            assert child.memory is not None
            assert child.block is not None
            if self._writer is None:
                self._writer = CheckpointWriter(
                    storage=open_storage(child.said["checkpoint_dir"]),
                    run_id=child.said["run_id"],
                    num_parts=child.said["num_workers"],
                    config_toml=child.said["config"],
                )
            run_dir = Path(child.said["run_dir"])
            self._disk.write(self._writer, child.block, child.memory, run_dir=run_dir)

    def _look_after(self, child: Child) -> int | None:
        """Restart a child that has died or hangs; the exit code if that ends the job."""
        now_s = time.monotonic()
        why = "" if child.has_ended else child.hangs(now_s)
        if why:
            child.kill()
            if not child.has_ended:
                return None  # the kernel takes its time; the next poll looks again
        elif not child.has_ended:
            if notice := child.notice(now_s):
                self._say(notice, always=True)
            return None
        self._listen(child)  # what it said last
        if not why and (child.has_ended_well or now_s < child.rest_until_s):
            return None
        with contextlib.suppress(OSError):  # no file can be opened, not even to look for them
            fork_server.end_orphans(of=child.process.pid)
        cause = f"was killed, for {why}" if why else child.how_it_ended()
        return self._go_on_without(child, cause, hung=bool(why))

    def _go_on_without(self, child: Child, cause: str, *, hung: bool = False) -> int | None:
        """Restart a child that has ended; the exit code if that ends the job."""
        now_s = time.monotonic()
        if (code := self._end_for_all(child)) is not None:
            return code
        if child.block is None and self._signals:
            return None  # the job is stopping, and needs none
        too_many = child.count_restart(now_s)
        if too_many and (child.block is not None or not self._is_training):
            return self._end_badly(child, f"{cause}; that is {too_many} (--max-worker-restarts)")
        if too_many and not child.rest_until_s:
            # No reason to stop training; only to come back less often.
            child.rest_until_s = now_s + COORDINATOR_REST_S
            self._say(f"{child.name} {cause}; training goes on without it for a while")
            return None
        child.rest_until_s = 0.0
        if child.block is None:
            self._say(f"{child.named} {cause}; a new one takes over")
        child.restart(cause, hung=hung)
        return None

    def _end_for_all(self, child: Child) -> int | None:
        """The exit code if a child has ended because the job can't begin, or can't go on."""
        end = child.said.get("end")
        if end in (REFUSED, NOT_STARTED):
            return self._end_unstarted(1 if end == NOT_STARTED else REFUSED)
        if end == NOT_OURS:
            return self._end_refused(child.said["why"])
        return None if end != FINAL else self._end_badly(child, "can't go on", repeats=True)

    @property
    def _is_training(self) -> bool:
        """Whether a worker of this rank is between its first step and its end: then it needs no
        coordinator."""
        pages = [child.memory.page for child in self._workers if child.memory]
        states = [STATES[page[Field.STATE]] for page in pages if page[Field.REACHED]]
        return any(state is not State.DONE for state in states)

    # The end ----------------------------------------------------------------------------------

    def _stop(self) -> int | None:
        """The user or the launcher wants the job to stop: at a checkpoint if that can be had."""
        name = signal.Signals(self._signals[0]).name
        if self._coordinator is not None and self._coordinator.said.get("end") == DONE:
            return None  # all is written; the processes only leave
        if not self._stop_by_s:
            if self._registrar is not None:
                self._registrar.tell(stop=int(self._signals[0]))
            pages = [child.memory.page for child in self._workers if child.memory]
            if not any(page[Field.REACHED] for page in pages):
                return self._end_stopped(f"stopped by {name} before the first step")
            self._stop_by_s = time.monotonic() + STOP_S
            for page in pages:
                page[Field.STOP_WANTED] = 1
            is_by_hand = self._rank is None and self._signals[0] == signal.SIGINT
            again = "again" if is_by_hand else f"again after {SAME_STOP_S:.0f} s"
            self._say(
                f"{name}{self._stop_by}: stopping at a checkpoint (at most {STOP_S:.0f} s;"
                f" {again}: at once)"
            )
        if self._stopped_well():
            return self._end_stopped(f"stopped by {name}")
        why = self._why_not_wait()
        return self._end_stopped(f"stopped by {name}; {why}") if why else None

    def _stopped_well(self) -> bool:
        """Whether the checkpoint at which the job stops is complete: then nothing is lost."""
        steps = {child.memory.page[Field.STOP_AT] - 1 for child in self._workers if child.memory}
        if len(steps) != 1 or self._writer is None:
            return False
        (step,) = steps
        return step >= 0 and self._disk.knows_complete(self._writer, step)

    def _why_not_wait(self) -> str:
        """Why the checkpoint at which the job is to stop is not waited for any longer."""
        if len(self._signals) > 1:
            return "at once"
        if time.monotonic() > self._stop_by_s:
            return f"no checkpoint in {STOP_S:.0f} s"
        living = [child for child in self._workers if not child.has_ended]
        if self._rank is not None and any(w.memory and w.memory.page[Field.SILENT] for w in living):
            return "another rank is not there any more"
        return ""

    def _end_stopped(self, how: str) -> int:
        self._end_coordinator()
        self._say(f"{how}{self._how_to_resume()}")
        return 128 + self._signals[0]

    def _end_unstarted(self, code: int) -> int:
        """The coordinator tells why; let it finish. On other ranks there is nothing to tell."""
        if self._coordinator is not None:
            self._coordinator.join(END_S)
        return code

    def _end_refused(self, why: str) -> int:
        """The job that was announced is not this rank's."""
        self._end_coordinator()
        self._why = why
        self._say(f"error: this rank was {why}", always=True)
        return REFUSED

    def _end_badly(self, child: Child, how: str, *, repeats: bool = False) -> int:
        """End the job because of this child, and say why, below whatever the view has drawn.

        `repeats`: the same command would only fail again.
        """
        self._end_coordinator()
        self._speaks = True
        self._why = f"{child.name} {how}"
        self._say(f"{child.named} {how}; the job is ended")
        if "traceback" in child.said:
            print(child.said["traceback"].rstrip(), file=sys.stderr, flush=True)
        elif child.block is not None and "run_dir" in child.said:
            self._say(f"its log: {worker_log(Path(child.said['run_dir']), child.block)}")
        if remedy := self._how_to_resume(repeats=repeats):
            self._say(remedy.removeprefix("; "))
        return 1

    def _leave(self, code: int) -> None:
        """Tell the other ranks that this one ends: they need not wait for it."""
        if self._registrar is None or self._registrar.has_ended:
            return
        is_failed = (self._why or code not in (0, REFUSED)) and not self._signals
        why = self._why or f"exit code {code}"
        presence = {"presence": "failed", "why": why} if is_failed else {"presence": "left"}
        self._registrar.tell(**presence)
        self._registrar.await_fork(LEAVE_S)
        self._registrar.join(LEAVE_S)

    def _end_coordinator(self) -> None:
        """First of all, since it draws on the terminal."""
        if self._coordinator is not None:
            self._coordinator.end(END)
            self._coordinator.join(END_S)

    def _how_to_resume(self, *, repeats: bool = False) -> str:
        said = next((w.said for w in self._workers if "run_dir" in w.said), None)
        if said is None or not self._speaks:
            return ""
        self._disk.close(END_S)
        run_dir, place = said["run_dir"], said["checkpoint_dir"]
        storage = open_storage(place, timeout_s=END_S)
        try:  # what is read from a store was read when it was written, too
            found = last_committed(storage) if is_url(place) else last_complete(storage)
        except OSError as error:
            return f"; the checkpoints in {place} can't be read now ({reason(error)})"
        if found is None:
            where = run_dir if self._program.checkpoint_dir is None else place
            return f"; {where} holds no complete checkpoint"
        last = f"; the last complete checkpoint is of step {found.step}"
        if repeats:
            return f"{last} ({found.place})"
        fresh = ", without --fresh," if self._program.fresh else ""
        return f"{last}: the same command{fresh} with --run-dir {run_dir} resumes from there"

    def _say(self, text: str, *, always: bool = False) -> None:
        if self._speaks or always:
            print(f"{self._program.name}: {text}", file=sys.stderr, flush=True)
