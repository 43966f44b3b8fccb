"""The keeper: starts this rank's processes from a fork server, restarts those that die or hang.

Owns processes, the job's stop and its exit code. It imports no torch, so that a rank starts at
once and stays small. A dead worker costs its own restart; what ends the job is a failure that
would only repeat itself, or too many of them. Nothing is left when it returns.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from runtime import entry
from runtime.core.worker import State
from runtime.lifetime import die_with_parent
from runtime.program import FINAL, REFUSED, Meeting, Program
from runtime.state.checkpoint import CheckpointWriter, last_complete
from runtime.state.disk import Disk
from runtime.state.memory import Word
from runtime.ward import END_S, STATES, Ward

POLL_S = 0.25
ABSENCE_S = 5.0  # between two polls: longer than any that was not disturbed
COORDINATOR_REST_S = 30.0  # before one that has died too often comes again
LAST_WRITE_S = 600.0  # for the last checkpoint of a job that has ended well
STOP_S = 10.0  # to reach the step to stop at, and to write the checkpoint there


class Keeper:
    """Keeps the worker of one rank under a launcher, or without one (`rank` None) all workers."""

    def __init__(self, program: Program, *, rank: int | None) -> None:
        self._program = program
        self._rank = rank
        self._speaks = rank in (None, 0)  # this rank has the coordinator, and talks to the user
        self._context = multiprocessing.get_context("forkserver")
        self._coordinator: Ward | None = None
        self._workers: list[Ward] = []
        self._memory = os.memfd_create("loco-rendezvous") if rank is None else -1
        file = f"/proc/{os.getpid()}/fd/{self._memory}" if rank is None else None
        self._meeting = Meeting(file=file, keeper_pid=os.getpid())
        self._writer: CheckpointWriter | None = None
        self._signals: list[int] = []
        self._stop_by_s = 0.0
        self._polled_s = time.monotonic()

    def run(self) -> int:
        """Run to the end of the job; return its exit code: 0, 1, 2 (refused) or 128 + signal."""
        if self._rank is not None:
            die_with_parent()
        signals = {signal.SIGINT, signal.SIGTERM}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
            signals.add(signal.SIGHUP)
        for number in signals:
            signal.signal(number, self._note_signal)
        self._disk = Disk(self._program.faults, say=self._say)
        try:
            self._context.set_forkserver_preload(["runtime.fork_server", *self._program.preload])
            if self._speaks:
                self._coordinator = Ward(
                    self._context, entry.coordinator, self._program, self._meeting
                )
            if self._rank is not None:
                self._start_worker(self._rank)
            code = self._watch()
            self._disk.close(LAST_WRITE_S if code == 0 else END_S)
            return code
        finally:
            for ward in self._wards():
                ward.kill()
            for ward in self._wards():
                ward.close()
            if self._memory >= 0:
                os.close(self._memory)

    def _wards(self) -> list[Ward]:
        return [*([] if self._coordinator is None else [self._coordinator]), *self._workers]

    def _start_worker(self, block: int) -> None:
        self._workers.append(
            Ward(self._context, entry.worker, self._program, self._meeting, block=block)
        )

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals.append(number)

    # The watch --------------------------------------------------------------------------------

    def _watch(self) -> int:
        """Until all have ended well, or the job ends otherwise; never waits longer than a poll."""
        while True:
            living = [ward for ward in self._wards() if not ward.has_ended]
            sources = [source for ward in living for source in (ward.process.sentinel, ward.pipe)]
            multiprocessing.connection.wait(sources, timeout=POLL_S)
            self._forgive_own_absence()
            for ward in self._wards():
                self._listen(ward)
            if self._all_ended_well():
                return 0
            if self._signals and (code := self._stop()) is not None:
                return code
            for ward in self._wards():
                if (code := self._look_after(ward)) is not None:
                    return code

    def _forgive_own_absence(self) -> None:
        """A keeper that was stopped itself (a paused container) must not blame its wards."""
        now_s = time.monotonic()
        if now_s - self._polled_s > ABSENCE_S:
            for ward in self._wards():
                ward.forgive(now_s)
        self._polled_s = now_s

    def _all_ended_well(self) -> bool:
        wards = self._wards()
        return bool(self._workers or self._rank is None) and all(
            ward.has_ended and ward.process.exitcode == 0 for ward in wards
        )

    def _listen(self, ward: Ward) -> None:
        """Take what a ward says, and do what it asks for."""
        announced = ward.listen()
        if ward.block is None and self._rank is None and not self._workers:
            for block in range(ward.said.get("num_workers", 0)):
                self._start_worker(block)
        if announced:
            assert ward.memory is not None
            assert ward.block is not None
            if self._writer is None:
                self._writer = CheckpointWriter(
                    run_dir=Path(ward.said["run_dir"]),
                    run_id=ward.said["run_id"],
                    num_parts=ward.said["num_workers"],
                )
            self._disk.write(self._writer, ward.block, ward.memory)

    def _look_after(self, ward: Ward) -> int | None:
        """Restart a ward that has died or hangs; the exit code where that ends the job."""
        now_s = time.monotonic()
        why = "" if ward.has_ended else ward.hangs(now_s)
        if why:
            ward.kill()
            if not ward.has_ended:
                return None  # the kernel takes its time; the next poll looks again
        elif not ward.has_ended or ward.process.exitcode == 0 or now_s < ward.rest_until_s:
            return None
        self._listen(ward)  # its last words
        return self._go_on_without(ward, f"was killed, for {why}" if why else ward.how_it_ended())

    def _go_on_without(self, ward: Ward, cause: str) -> int | None:
        """Restart a ward that has ended; the exit code where that ends the job."""
        now_s = time.monotonic()
        if ward.process.exitcode == REFUSED:
            return self._end_refused()
        if ward.process.exitcode == FINAL:
            return self._end_badly(ward, "can't go on", repeats=True)
        too_many = ward.count_restart(now_s)
        if too_many and (ward.block is not None or self._workers_are_done):
            return self._end_badly(ward, f"{cause}; that is {too_many} (--max-worker-restarts)")
        if too_many and not ward.rest_until_s:
            # No reason to stop training; only to come back less often.
            ward.rest_until_s = now_s + COORDINATOR_REST_S
            self._say(f"the coordinator {cause}; training goes on without it for a while")
            return None
        ward.rest_until_s = 0.0
        if ward.block is None:
            self._say(f"the coordinator (pid {ward.process.pid}) {cause}; a new one takes over")
        ward.restart(cause)
        return None

    @property
    def _workers_are_done(self) -> bool:
        pages = [ward.memory.page for ward in self._workers if ward.memory]
        return all(STATES[page[Word.STATE]] is State.DONE for page in pages)

    # The end ----------------------------------------------------------------------------------

    def _stop(self) -> int | None:
        """The user or the launcher wants the job to stop: at a checkpoint if that can be had."""
        name = signal.Signals(self._signals[0]).name
        if not self._stop_by_s:
            if not any(ward.memory and ward.memory.page[Word.REACHED] for ward in self._workers):
                return self._end_stopped(f"stopped by {name} before the first step")
            self._stop_by_s = time.monotonic() + STOP_S
            for ward in self._workers:
                assert ward.memory is not None
                ward.memory.page[Word.STOP_WANTED] = 1
            self._say(f"{name}: stopping at a checkpoint (at most {STOP_S:.0f} s; again: at once)")
        if self._stopped_well():
            return self._end_stopped(f"stopped by {name}")
        why = self._why_not_wait()
        return self._end_stopped(f"stopped by {name}; {why}") if why else None

    def _stopped_well(self) -> bool:
        """Whether the checkpoint where the job stops is complete: then nothing is lost."""
        steps = {ward.memory.page[Word.STOP_AT] - 1 for ward in self._workers if ward.memory}
        if len(steps) != 1 or self._writer is None:
            return False
        (step,) = steps
        return step >= 0 and self._writer.is_complete(step)

    def _why_not_wait(self) -> str:
        """Why the checkpoint where the job is to stop is not waited for any longer."""
        if len(self._signals) > 1:
            return "at once"
        if time.monotonic() > self._stop_by_s:
            return f"no checkpoint in {STOP_S:.0f} s"
        living = [ward for ward in self._workers if not ward.has_ended]
        if self._rank is not None and any(w.memory and w.memory.page[Word.SILENT] for w in living):
            return "another rank is not there any more"
        return ""

    def _end_stopped(self, how: str) -> int:
        self._end_coordinator()
        self._say(f"{how}{self._how_to_go_on()}")
        return 128 + self._signals[0]

    def _end_refused(self) -> int:
        """The coordinator has said why, or says it still: it may be another rank's to say."""
        if self._coordinator is not None:
            self._coordinator.process.join(END_S)
        return REFUSED

    def _end_badly(self, ward: Ward, how: str, *, repeats: bool = False) -> int:
        """End the job because of this ward, and say why, below whatever the view has drawn.

        `repeats`: the same command would only fail again.
        """
        self._end_coordinator()
        self._speaks = True
        self._say(f"{ward.name} (pid {ward.process.pid}) {how}; the job is ended")
        if "traceback" in ward.said:
            print(ward.said["traceback"].rstrip(), file=sys.stderr, flush=True)
        going_on = self._how_to_go_on(repeats=repeats)
        if going_on:
            self._say(going_on.removeprefix("; "))
        return 1

    def _end_coordinator(self) -> None:
        """First of all, since it draws on the terminal."""
        if self._coordinator is not None:
            self._coordinator.end(signal.SIGTERM)
            self._coordinator.process.join(END_S)

    def _how_to_go_on(self, *, repeats: bool = False) -> str:
        run_dir = next((w.said["run_dir"] for w in self._workers if "run_dir" in w.said), None)
        if run_dir is None or not self._speaks:
            return ""
        self._disk.close(END_S)
        found = last_complete(Path(run_dir))
        if found is None:
            return f"; {run_dir} holds no complete checkpoint"
        where = f"; the last complete checkpoint is of step {found.step}"
        if repeats:
            return f"{where} ({found.path})"
        fresh = ", without --fresh," if self._program.fresh else ""
        return f"{where}: the same command{fresh} with --run-dir {run_dir} goes on from there"

    def _say(self, text: str) -> None:
        if self._speaks:
            with contextlib.suppress(OSError):  # no one may listen any more
                print(f"{self._program.name}: {text}", file=sys.stderr, flush=True)
