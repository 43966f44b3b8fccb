"""The memory benchmark: what is asked of each system, and what is made of the records."""

import pytest

from benchmarks.memory.peaks import END_TO_END, OURS, Options, estimates, most, show
from benchmarks.memory.watch import OWNERS

TINY = Options(model="mlp", data="synthetic:1x8x8x64", workers=2, batch_size=8, microbatches=(2,))


def test_each_block_is_estimated():
    assert all(size > 0 for size in estimates(TINY))
    assert len(estimates(TINY)) == 2


@pytest.mark.parametrize("m", [0, 3, 8])
def test_microbatches_unequal_or_too_small_are_refused(m):
    with pytest.raises(ValueError, match=f"{m} microbatches .* divisor"):
        Options(batch_size=8, microbatches=(m,))


def test_most_of_each_and_of_all_at_once_is_found():
    """Two processes, at their most in different looks; a third look comes before they are there."""

    def sizes(private: int, state: int, checkpoint: int = 0) -> dict[str, int]:
        given = {"private": private, "state": state, "checkpoint": checkpoint}
        return dict.fromkeys(OWNERS, 0) | given

    looks = [{}, {0: sizes(50, 5), 1: sizes(20, 0, 9)}, {0: sizes(30, 5), 1: sizes(40, 6)}]
    assert most(looks, idle_bytes=10) == {
        "idle_bytes": 10,
        "bytes": [45, 36],
        "at_once_bytes": 61,
        "checkpoint_bytes": [0, 9],
        "parts": sizes(70, 11),
    }


def test_table_has_the_most_and_what_ours_is_made_of(capsys):
    parts = {owner: 1e6 * i for i, owner in enumerate(OWNERS)}
    records = [
        {
            "system": OURS,
            "idle_bytes": 300e6,
            "bytes": [10e6, 30e6],
            "at_once_bytes": 35e6,
            "parts": parts,
            "checkpoint_bytes": [2e6, 8e6],
            "estimated_bytes": [11e6, 33e6],
        },
        {"system": END_TO_END, "idle_bytes": 290e6, "bytes": [70e6], "at_once_bytes": 70e6},
        {"system": "GPipe", "idle_bytes": 290e6, "bytes": [40e6, 30e6], "at_once_bytes": 70e6},
    ]
    show(records)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][2:] == ["10", "30", "30", "35", "0.50", "300"]
    assert rows[2][-4:] == ["11", "33", "33", "44"]
    assert rows[3][-4:] == ["70", "70", "1.00", "290"]
    assert "idle included: private 0, state 1, messages 2, snapshot 3" in " ".join(rows[-2])
    assert rows[-1][-2:] == ["2,", "8"]
