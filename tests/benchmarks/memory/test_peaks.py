"""The memory benchmark: what is asked of each system, and what is made of the records."""

import pytest

from benchmarks.memory.peaks import END_TO_END, OURS, Options, estimates, show

TINY = Options(model="mlp", data="synthetic:1x8x8x64", workers=2, batch_size=8, microbatches=(2,))


def test_each_block_is_estimated():
    assert all(size > 0 for size in estimates(TINY))
    assert len(estimates(TINY)) == 2


@pytest.mark.parametrize("m", [0, 3, 8])
def test_microbatches_unequal_or_too_small_are_refused(m):
    with pytest.raises(ValueError, match=f"{m} microbatches .* divisor"):
        Options(batch_size=8, microbatches=(m,))


def test_table_has_the_most_and_the_sum(capsys):
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
