"""Cuts as numbers: which units each block holds, what is refused, and the balanced choice."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.partition import Block, Partition, balanced_cuts


def test_homes_are_consecutive_and_guests_begin_the_next_home():
    partition = Partition(num_units=5, cuts=(0, 1, 2, 3), overlap=1)
    assert partition.blocks == (
        Block(index=0, home=range(0, 1), guest=range(1, 2)),
        Block(index=1, home=range(1, 2), guest=range(2, 3)),
        Block(index=2, home=range(2, 3), guest=range(3, 4)),
        Block(index=3, home=range(3, 5), guest=range(5, 5)),
    )
    assert partition.num_blocks == 4


def test_overlap_0_makes_no_guests():
    blocks = Partition(num_units=3, cuts=(0, 2), overlap=0).blocks
    assert [len(block.guest) for block in blocks] == [0, 0]


def test_one_block_holds_everything_and_has_no_guest_whatever_the_overlap():
    assert Partition(num_units=3, cuts=(0,), overlap=2).blocks == (
        Block(index=0, home=range(3), guest=range(3, 3)),
    )


def test_the_overlap_may_be_a_whole_home_but_the_lowest_home_does_not_count():
    partition = Partition(num_units=7, cuts=(0, 1, 4), overlap=3)
    assert partition.max_overlap == 3
    assert [block.guest for block in partition.blocks] == [range(1, 4), range(4, 7), range(7, 7)]


@pytest.mark.parametrize(
    ("num_units", "cuts", "overlap", "message"),
    [
        (5, (), 0, "cuts  must begin with 0, the first unit"),
        (5, (1, 2), 0, "cuts 1,2 must begin with 0, the first unit"),
        (5, (0, 2, 2), 0, "cuts 0,2,2 are out of order; each must exceed the last"),
        (5, (0, 3, 1), 0, "cuts 0,3,1 are out of order; each must exceed the last"),
        (5, (0, 5), 0, "cuts 0,5 end past the last unit; the highest is 4"),
        (5, (0, 2), -1, "overlap -1 is negative; 0 shares nothing"),
        (
            5,
            (0, 1, 3),
            3,
            "overlap 3 exceeds the home of units 1..2; with cuts 0,1,3 it can be at most 2",
        ),
    ],
)
def test_a_refusal_gives_the_value_and_the_remedy(num_units, cuts, overlap, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Partition(num_units=num_units, cuts=cuts, overlap=overlap)
    assert str(caught.value) == message


def by_trying_all(costs: list[float], num_blocks: int, overlap: int) -> list[tuple[int, ...]]:
    """All cuts whose costliest block is cheapest, lowest first."""
    answers = {}
    for rest in itertools.combinations(range(1, len(costs)), num_blocks - 1):
        cuts = (0, *rest)
        if overlap <= Partition(num_units=len(costs), cuts=cuts, overlap=0).max_overlap or not rest:
            answers[cuts] = worst_block(costs, cuts, overlap)
    return sorted(cuts for cuts, worst in answers.items() if worst == min(answers.values()))


def worst_block(costs: list[float], cuts: tuple[int, ...], overlap: int) -> float:
    blocks = Partition(num_units=len(costs), cuts=cuts, overlap=overlap).blocks
    return max(sum(costs[i] for i in (*block.home, *block.guest)) for block in blocks)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    costs=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    num_blocks=st.integers(1, 5),
    overlap=st.integers(0, 3),
)
def test_balanced_cuts_are_the_cheapest_of_all(costs, num_blocks, overlap):
    if len(costs) < 1 + (num_blocks - 1) * max(1, overlap):
        with pytest.raises(ValueError, match="at most"):
            balanced_cuts(costs, num_blocks, overlap)
        return
    cuts = balanced_cuts(costs, num_blocks, overlap)
    best = by_trying_all(costs, num_blocks, overlap)
    assert cuts in best
    assert cuts[:2] == best[0][:2]


def test_among_equals_the_lowest_first_cut_wins_and_the_rest_is_balanced_in_turn():
    assert balanced_cuts([1, 1, 1, 1, 1], 4, 1) == (0, 1, 2, 3)
    assert balanced_cuts([0, 0, 0, 0], 2, 0) == (0, 1)
    assert balanced_cuts([5, 1, 1, 1, 1], 3, 0) == (0, 1, 3)


def test_the_guest_counts_in_the_balance():
    costs = [2, 1, 1, 4]
    assert balanced_cuts(costs, 2, 0) == (0, 3)
    assert balanced_cuts(costs, 2, 1) == (0, 2)  # with the cut at 3 block 0 would hold all of it


def test_too_few_units_is_an_error_that_says_what_fits():
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        balanced_cuts([1.0] * 5, 4, 2)
    assert str(caught.value) == (
        "4 workers with overlap 2 don't fit a network of 5 units; at most 3 do"
    )
    assert balanced_cuts([1.0] * 5, 3, 2) == (0, 1, 3)
