"""The memory benchmark: what is asked of each system, and what is made of the records."""

import pytest

from benchmarks.memory import END_TO_END, OURS, Options, estimates, flags_of, show
from benchmarks.memory_stage import make_stage
from launch.assembly import LocalLearningJob
from launch.config import parse
from launch.environment import Environment
from launch.resolve import resolve

TINY = Options(model="mlp", data="synthetic:1x8x8x64", workers=2, batch_size=8, microbatches=(2,))


def tiny_job() -> LocalLearningJob:
    environment = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
    config = parse(list(flags_of(TINY, TINY.network)), prog="memory")
    return LocalLearningJob(resolve(config, environment=environment))


def test_stages_are_the_homes_and_only_the_last_has_a_head():
    job = tiny_job()
    sizes = [len(block.home) for block in job.resolved.partition.blocks]
    assert [len(make_stage(job, rank)) for rank in range(2)] == [sizes[0], sizes[1] + 1]


def test_each_block_is_estimated():
    assert all(size > 0 for size in estimates(TINY))
    assert len(estimates(TINY)) == 2


@pytest.mark.parametrize("m", [0, 3, 8])
def test_microbatches_that_are_not_equal_or_too_small_are_refused(m):
    with pytest.raises(ValueError, match=f"{m} microbatches .* divisor"):
        Options(batch_size=8, microbatches=(m,))


def test_the_table_has_the_most_and_the_sum(capsys):
    records = [
        {
            "system": OURS,
            "idle_bytes": 300e6,
            "bytes": [10e6, 30e6],
            "estimated_bytes": [11e6, 33e6],
        },
        {"system": END_TO_END, "idle_bytes": 290e6, "bytes": [70e6]},
    ]
    show(records)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][2:] == ["10", "30", "30", "40", "300"]
    assert rows[2][-4:] == ["11", "33", "33", "44"]
    assert rows[3][-3:] == ["70", "70", "290"]
