"""Writes a run's directory as the run goes: metrics, TensorBoard events, weights, summary.

Owns what is written when. Knows nothing of where records come from; the sequential program and
the coordinator share it.
"""

import logging
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from runtime import digest
from runtime.job import Job
from runtime.program import Tell
from runtime.records.run_dir import RunDir
from runtime.records.schema import Record, StepRecord, UnitAccuracy, WorkerResult, read_record
from runtime.records.summary import summarise
from runtime.records.tables import render_closing
from runtime.records.trace import join
from runtime.state.checkpoint import last_complete, make_room
from runtime.state.storage import LocalStorage, Storage, is_full, write_durably

log = logging.getLogger(__name__)

EVALUATING = "evaluating"  # with which the phases of that begin
ROOM_TIMEOUT_S = 600.0
ROOM_POLL_S = 2.0
SCALARS = ("loss", "probe_top1", "samples_per_s")


class NotWritten(Exception):
    """The result can't be written; says why, and what to do. Nothing of the run is lost."""


class Recorder:
    """One run's records; `close` when the run ends, whichever way."""

    def __init__(self, run_dir: RunDir, checkpoints: Storage | None = None) -> None:
        """`checkpoints` is where the run's are, if not in its directory."""
        self.run_dir = run_dir
        self._checkpoints = checkpoints or LocalStorage(run_dir.checkpoints)
        self._events = SummaryWriter(str(run_dir.tensorboard))
        self._is_failing = False

    def add(self, records: Iterable[Record]) -> None:
        """Append records and events to metrics.jsonl, flushed, and each block's newest record to
        TensorBoard. If they can't be written, that is said once, and the run goes on."""
        try:
            self._add(list(records))
        except OSError as error:
            self._note_loss(error)

    def _note_loss(self, error: OSError) -> None:
        if not self._is_failing:
            print(f"records are lost: {error.strerror or error}", file=sys.stderr, flush=True)
        self._is_failing = True

    def _add(self, records: list[Record]) -> None:
        self.run_dir.append_metrics(map(asdict, records))
        steps = [record for record in records if isinstance(record, StepRecord)]
        for record in {record.block: record for record in steps}.values():
            for name in SCALARS:
                if math.isfinite(value := getattr(record, name)):
                    tag = f"{name}/block{record.block}"
                    self._events.add_scalar(tag, value, record.step, walltime=record.t)

    def write_weights(self, weights: Mapping[str, Tensor], *, console: Console, tell: Tell) -> None:
        """Write weights.safetensors as one: a reader sees the old file or the new.

        Tied weights are tensors of their own there, under each of their names. On a full disk
        older checkpoints make room; without any checkpoint that has them, room is waited for, at
        most ROOM_TIMEOUT_S. Raises NotWritten.
        """
        deadline_s = 0.0
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in weights.items()}
        content = safetensors.torch.save(tensors)
        while True:
            try:
                return write_durably(self.run_dir.weights, content)
            except OSError as error:
                if is_full(error) and self._make_room():
                    continue
                has_checkpoint = self._has_checkpoint()
                if has_checkpoint or 0.0 < deadline_s < time.monotonic():
                    raise self._not_written(self.run_dir.weights, error, has_checkpoint) from error
                if not deadline_s:
                    deadline_s = time.monotonic() + ROOM_TIMEOUT_S
                    what = f"{self.run_dir.weights} can't be written ({error.strerror or error})"
                    console.print(f"{what}: waiting for room, {ROOM_TIMEOUT_S:.0f} s at most")
                tell("waiting for room on the disk", takes_s=ROOM_TIMEOUT_S)
                time.sleep(ROOM_POLL_S)

    def _make_room(self) -> bool:
        """Delete an older checkpoint, if that makes room for the weights; whether it may."""
        beside = self._checkpoints.shares_disk(self.run_dir.path)
        return beside and make_room(self._checkpoints)

    def _has_checkpoint(self) -> bool:
        """Whether a checkpoint has what was learned; one that can't be read now counts as none."""
        try:
            return last_complete(self._checkpoints) is not None
        except OSError as error:
            log.warning("the checkpoints can't be read: %s", error)
            return False

    def _not_written(self, path: Path, error: OSError, has_checkpoint: bool) -> NotWritten:
        remedy = "there is no checkpoint either, and what was learned is lost"
        if has_checkpoint:
            remedy = (
                f"what was learned is in the checkpoints ({self._checkpoints.locate()}): make room,"
                " and give the same command with the same --run-dir to write it"
            )
        return NotWritten(f"{path} can't be written ({error.strerror or error}); {remedy}")

    def finish(
        self,
        job: Job,
        results: Sequence[WorkerResult],
        weights: Mapping[str, Tensor],
        *,
        started_t: float,
        console: Console,
        tell: Tell,
        not_evaluated: str = "",
        one_process: bool = False,
        refused: int = 0,
    ) -> None:
        """Evaluate the weights, write summary.json, and show the closing tables. `tell` is told
        which phase begins; `not_evaluated` is why the weights are not to be evaluated, `refused`
        how many strangers came to the coordinator.

        If they are not or can't be (nothing labelled, diverged features), these figures are null,
        and the reason is shown. Raises NotWritten.
        """
        units = self._evaluate(job, weights, console, tell, not_evaluated)
        summary = summarise(
            job,
            results,
            weights_sha256=digest.of_tensors(weights),
            units=units,
            events=[read_record(row) for row in self.run_dir.events()],
            started_t=started_t,
            ended_t=time.time(),
            one_process=one_process,
            refused=refused,
        )
        tell("writing the summary")
        try:
            self.run_dir.write_summary(asdict(summary))
        except OSError as error:
            raise self._not_written(self.run_dir.summary, error, self._has_checkpoint()) from error
        render_closing(summary, console)
        console.print(f"\nrun directory: {self.run_dir.path}", soft_wrap=True)
        if job.trace and not one_process:
            self._join_trace(console)

    def _join_trace(self, console: Console) -> None:
        try:
            join(self.run_dir.trace_parts(), self.run_dir.trace)
        except OSError as error:
            console.print(f"no timeline: {error.strerror or error}", soft_wrap=True)
            return
        hint = "open it at https://ui.perfetto.dev"
        console.print(f"timeline: {self.run_dir.trace} ({hint})", soft_wrap=True)

    def _evaluate(
        self,
        job: Job,
        weights: Mapping[str, Tensor],
        console: Console,
        tell: Tell,
        not_evaluated: str,
    ) -> Sequence[UnitAccuracy]:
        names = [name for k in range(job.num_workers) for name in job.unit_names(k)[0]]
        unknown = [UnitAccuracy(name=name) for name in names]
        if job.quick_end:
            return unknown
        if not_evaluated:
            console.print(f"not evaluated: {not_evaluated}", soft_wrap=True)
            return unknown
        shown: list[str] = []

        def show(phase: str, *, takes_s: float = 0.0) -> None:
            tell(f"{EVALUATING}: {phase}", takes_s=takes_s)
            if phase not in shown[-1:]:  # it goes on
                shown.append(phase)
                console.print(phase, soft_wrap=True)

        try:
            return job.evaluate(weights, show)
        except (ValueError, OSError) as error:  # the data, or their disk, may be gone by now
            log.info("not evaluated", exc_info=error)
            console.print(f"not evaluated: {error}", soft_wrap=True)
            return unknown

    def close(self) -> None:
        """Flush and close everything; what can't be written by now is lost, and that is said."""
        for close in (self._events.close, self.run_dir.close):
            try:
                close()
            except OSError as error:
                self._note_loss(error)
