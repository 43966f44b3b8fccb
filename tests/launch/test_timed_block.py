"""A block with a worker's telemetry: it computes the same, and reports and hands in as one does."""

import time
from types import SimpleNamespace

import pytest
import torch

from launch import timed_block
from launch.job import LocalLearningJob
from launch.timed_block import TimedBlock
from runtime import digest
from runtime.core.state import State
from runtime.records.schema import StepRecord

from .runs import light

STEPS = 3


@pytest.fixture
def job() -> LocalLearningJob:
    return LocalLearningJob(light(workers=2, batch_size=4, steps=STEPS, data="synthetic:1x8x8x64"))


def train(blocks, *, watch=lambda k, step: None) -> None:
    for step in range(STEPS):
        activation, ties = None, []
        for block in blocks:
            activation = block.forward(step, activation)
            ties.append(block.update(step))
        blocks[0].apply(step, None, None)
        blocks[1].apply(step, ties[0].up, None)
        for k in range(2):
            watch(k, step)


def test_timed_blocks_come_to_what_blocks_come_to(job):
    plain = [job.build_block(k) for k in range(2)]
    timed = [TimedBlock(job, k) for k in range(2)]
    train(plain)
    train(timed)
    for one, other in zip(plain, timed, strict=True):
        state = other.block.state()
        assert one.state().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in one.state().items())


def test_step_is_reported_when_it_is_done(job):
    blocks = [TimedBlock(job, k) for k in range(2)]
    reports = []
    train(blocks, watch=lambda k, step: reports.append(blocks[k].step_done(step)))
    assert [(r.block, r.records[-1].step) for r in reports] == [
        (k, step) for step in range(STEPS) for k in range(2)
    ]
    for report in reports:
        (record,) = report.records
        assert isinstance(record, StepRecord)
        assert record.loss > 0


def test_result_has_counters_and_digests_of_the_block(job):
    blocks = [TimedBlock(job, k) for k in range(2)]
    train(blocks, watch=lambda k, step: blocks[k].step_done(step))
    lower, upper = (block.result() for block in blocks)
    assert (lower.counters.trained, lower.counters.sent) == (STEPS, STEPS)
    assert (upper.counters.trained, upper.counters.sent) == (STEPS, 0)
    assert lower.digests == digest.block_records(0, blocks[0].block.state())
    assert (upper.block, upper.last.step) == (1, STEPS - 1)


def test_time_is_booked_on_the_phase_and_on_waiting_between(job, monkeypatch):
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(timed_block, "time", clock)
    monkeypatch.setattr("runtime.worker.telemetry.time", clock)
    timed = TimedBlock(job, 1)

    class Takes:
        """A block whose update takes 2 s."""

        def update(self, step: int) -> str:
            now[0] += 2.0
            return f"ties of {step}"

    timed.block = Takes()
    assert timed.update(5) == "ties of 5"
    now[0] += 1.0  # others compute
    assert timed.update(6) == "ties of 6"
    watch = timed._telemetry.stopwatch
    booked = {state: seconds for state, seconds in watch.seconds.items() if seconds}
    assert booked == {State.UPDATE: 4.0, State.WAIT_INPUT: 1.0}
    assert watch.computed_s == 4.0
