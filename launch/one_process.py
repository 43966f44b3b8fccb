"""Training a job in this process, one loop: what launch/sequential.py does once it may begin.

Owns the run directory that it leaves, which is the pipeline's. What is trained is
models.sequential's.
"""

import contextlib

import torch
from rich.console import Console

from launch.job import LocalLearningJob
from launch.planning.notes import notes_on_result
from launch.timed_block import TimedBlock
from models.sequential import train
from runtime.coordinator.live_view import LiveView, make_console
from runtime.program import unheard
from runtime.records.progress import Progress
from runtime.records.recorder import Recorder


def run(job: LocalLearningJob, recorder: Recorder, started_t: float) -> None:
    """Train all blocks, evaluate, and leave the run directory that the pipeline leaves."""
    torch.set_num_threads(job.threads)
    console = make_console()
    for note in notes_on_result(job.resolved):
        console.print(f"note: {note}", soft_wrap=True)
    with contextlib.ExitStack() as stack:
        blocks = [
            stack.enter_context(contextlib.closing(TimedBlock(job, k)))
            for k in range(job.num_workers)
        ]
        _train(job, blocks, recorder, console)
        weights = {name: t for block in blocks for name, t in block.block.home_state().items()}
        recorder.write_weights(weights, console=console, tell=unheard)
        results = [block.result() for block in blocks]
    recorder.finish(
        job,
        results,
        weights,
        started_t=started_t,
        console=console,
        tell=unheard,
        one_process=True,
    )


def _train(
    job: LocalLearningJob, blocks: list[TimedBlock], recorder: Recorder, console: Console
) -> None:
    """All steps, each shown and recorded as it ends."""
    progress = Progress(job)
    with LiveView(job.num_steps, console=console) as view:

        def after_step(step: int) -> None:
            for report in [block.step_done(step) for block in blocks]:
                recorder.add(report.records)
                progress.take(report)
            view.update(progress.statuses())

        train(blocks, num_steps=job.num_steps, lag=job.plan(0).lag, after_step=after_step)
