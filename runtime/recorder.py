"""Writes a run's directory as the run goes: metrics, TensorBoard events, weights, summary.

Owns what is written when. Knows nothing of where records come from; the sequential program and
the coordinator share it.
"""

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import safetensors.torch
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from runtime import digest
from runtime.closing_table import render_closing
from runtime.job import Job
from runtime.run_dir import RunDir
from runtime.summary import summarise
from runtime.trace import join

SCALARS = ("loss", "probe_top1", "samples_per_s")


class Recorder:
    """One run's records; `close` when the run ends, whichever way."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._events = SummaryWriter(str(run_dir.tensorboard))
        self._is_failing = False

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records and events to metrics.jsonl, flushed, and each block's newest record to
        TensorBoard. Where they can't be written that is said once, and the run goes on."""
        try:
            self._add(list(records))
        except OSError as error:
            if not self._is_failing:
                print(f"records are lost: {error.strerror or error}", file=sys.stderr, flush=True)
            self._is_failing = True

    def _add(self, records: list[Mapping[str, Any]]) -> None:
        self.run_dir.append_metrics(records)
        steps = [record for record in records if "event" not in record]
        for record in {record["block"]: record for record in steps}.values():
            for name in SCALARS:
                if record[name] is not None and math.isfinite(record[name]):
                    self._events.add_scalar(
                        f"{name}/block{record['block']}",
                        record[name],
                        record["step"],
                        walltime=record["t"],
                    )

    def write_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Write weights.safetensors as one: a reader sees the old file or the new."""
        path = self.run_dir.weights
        temporary = path.with_name(f".{path.name}.tmp")
        tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
        safetensors.torch.save_file(tensors, temporary)
        temporary.replace(path)

    def finish(
        self,
        job: Job,
        results: Sequence[Mapping[str, Any]],
        weights: Mapping[str, Tensor],
        *,
        started_t: float,
        console: Console,
        one_process: bool = False,
    ) -> None:
        """Evaluate the weights, write summary.json, and show the closing tables.

        Where evaluation is impossible (nothing labelled, diverged features) its figures are
        null, and the reason is shown.
        """
        units = self._evaluate(job, weights, console)
        summary = summarise(
            job,
            results,
            weights_sha256=digest.of_tensors(weights),
            units=units,
            events=self.run_dir.events(),
            started_t=started_t,
            ended_t=time.time(),
            one_process=one_process,
        )
        self.run_dir.write_summary(summary)
        render_closing(summary, console)
        console.print(f"\nrun directory: {self.run_dir.path}", soft_wrap=True, highlight=False)
        if job.trace:
            join(self.run_dir.trace_parts(), self.run_dir.trace)
            hint = "open it at https://ui.perfetto.dev"
            console.print(f"timeline: {self.run_dir.trace} ({hint})", soft_wrap=True)

    def _evaluate(
        self, job: Job, weights: Mapping[str, Tensor], console: Console
    ) -> Sequence[Mapping[str, Any]]:
        names = [name for k in range(job.num_workers) for name in job.unit_names(k)[0]]
        unknown = [{"name": name, "linear_top1": None, "knn_top1": None} for name in names]
        if job.quick_end:
            return unknown
        console.print("evaluating on the held-out split ...", highlight=False)
        try:
            return job.evaluate(weights)
        except ValueError as error:
            console.print(f"not evaluated: {error}", markup=False, highlight=False, soft_wrap=True)
            return unknown

    def close(self) -> None:
        """Flush and close everything."""
        self._events.close()
        self.run_dir.close()
