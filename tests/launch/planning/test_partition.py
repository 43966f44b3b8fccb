"""Cuts as numbers: which units each block holds, what is refused, and the balanced choice."""

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from launch.planning.partition import Block, Partition, balanced_cuts


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


def test_one_block_holds_all_and_has_no_guest_at_any_overlap():
    assert Partition(num_units=3, cuts=(0,), overlap=2).blocks == (
        Block(index=0, home=range(3), guest=range(3, 3)),
    )


def test_overlap_may_be_a_whole_home_except_the_lowest():
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
def test_refusal_gives_the_value_and_the_remedy(num_units, cuts, overlap, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Partition(num_units=num_units, cuts=cuts, overlap=overlap)
    assert str(caught.value) == message


def balanced(costs: list[float], num_blocks: int, overlap: int) -> tuple[int, ...]:
    """The cuts for costs of units alone."""
    return balanced_cuts(len(costs), num_blocks, overlap, cost=summed(costs))


def summed(costs: list[float]) -> Callable[[Block], float]:
    return lambda block: sum(costs[i] for i in (*block.home, *block.guest))


def all_partitions(num_units: int, num_blocks: int, overlap: int) -> list[Partition]:
    """Every way to cut, lowest first."""
    found = []
    for rest in itertools.combinations(range(1, num_units), num_blocks - 1):
        if (
            not rest
            or overlap <= Partition(num_units=num_units, cuts=(0, *rest), overlap=0).max_overlap
        ):
            found.append(Partition(num_units=num_units, cuts=(0, *rest), overlap=overlap))
    return found


def lowest_worst(
    partitions: list[Partition], cost: Callable[[Block], float]
) -> list[tuple[int, ...]]:
    """All cuts whose costliest block is cheapest, lowest first."""
    worst = {p.cuts: max(cost(block) for block in p.blocks) for p in partitions}
    return sorted(cuts for cuts, found in worst.items() if found == min(worst.values()))


SMALL_NETWORKS = {
    "num_units": st.integers(1, 9),
    "num_blocks": st.integers(1, 5),
    "overlap": st.integers(0, 3),
    "draw": st.randoms(use_true_random=False),
}


def drawn(draw: random.Random) -> Callable[[Block], float]:
    """A figure for each block that knows all of it: index, home and guest, as a head's does."""
    figures: dict[Block, float] = {}
    return lambda block: figures.setdefault(block, draw.randrange(7))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(**SMALL_NETWORKS)
def test_balanced_cuts_are_the_cheapest_of_all(num_units, num_blocks, overlap, draw):
    cost = drawn(draw)
    if num_units < 1 + (num_blocks - 1) * max(1, overlap):
        with pytest.raises(ValueError, match="at most"):
            balanced_cuts(num_units, num_blocks, overlap, cost=cost)
        return
    cuts = balanced_cuts(num_units, num_blocks, overlap, cost=cost)
    best = lowest_worst(all_partitions(num_units, num_blocks, overlap), cost)
    assert cuts in best
    assert cuts[:2] == best[0][:2]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(**SMALL_NETWORKS, max_memory_mb=st.integers(0, 7))
def test_balanced_cuts_under_a_bound_are_the_cheapest_that_fit(
    num_units, num_blocks, overlap, draw, max_memory_mb
):
    partitions = all_partitions(num_units, num_blocks, overlap)
    assume(partitions)
    cost, memory_mb = drawn(draw), drawn(draw)
    fit = [p for p in partitions if max(map(memory_mb, p.blocks)) <= max_memory_mb]

    def under(bound: int) -> tuple[int, ...]:
        return balanced_cuts(
            num_units, num_blocks, overlap, cost=cost, memory_mb=memory_mb, max_memory_mb=bound
        )

    if fit:
        best = lowest_worst(fit, cost)
        assert under(max_memory_mb) in best
        assert under(max_memory_mb)[:2] == best[0][:2]
        return
    with pytest.raises(ValueError, match="max-memory-mb") as caught:
        under(max_memory_mb)
    needed = min(max(map(memory_mb, p.blocks)) for p in partitions)
    assert f"give --max-memory-mb {needed}, or" in str(caught.value)
    assert under(needed) in [p.cuts for p in partitions]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    costs=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    num_blocks=st.integers(1, 5),
    overlap=st.integers(0, 3),
)
def test_guest_costs_its_units_if_units_alone_cost(costs, num_blocks, overlap):
    assume(len(costs) >= 1 + (num_blocks - 1) * max(1, overlap))
    best = lowest_worst(all_partitions(len(costs), num_blocks, overlap), summed(costs))
    assert balanced(costs, num_blocks, overlap) in best


def test_equal_cuts_are_told_apart_by_the_lowest_first_cut():
    """What is left is balanced in turn."""
    assert balanced([1, 1, 1, 1, 1], 4, 1) == (0, 1, 2, 3)
    assert balanced([0, 0, 0, 0], 2, 0) == (0, 1)
    assert balanced([5, 1, 1, 1, 1], 3, 0) == (0, 1, 3)


def test_guest_counts_in_the_balance():
    costs = [2, 1, 1, 4]
    assert balanced(costs, 2, 0) == (0, 3)
    assert balanced(costs, 2, 1) == (0, 2)  # with the cut at 3 block 0 would hold all of it


def test_units_too_few_are_an_error_that_says_what_fits():
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        balanced([1.0] * 5, 4, 2)
    assert str(caught.value) == (
        "4 workers with overlap 2 don't fit a network of 5 units; at most 3 do"
    )
    assert balanced([1.0] * 5, 3, 2) == (0, 1, 3)


def test_bound_that_no_cut_meets_is_refused_with_the_least():
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        balanced_cuts(
            3, 2, 0, cost=len_of_home, memory_mb=lambda b: 1.5 * len(b.home), max_memory_mb=2
        )
    assert str(caught.value) == (
        "max-memory-mb 2 is too little: no cut into 2 blocks with overlap 0 holds every worker"
        " within it; give --max-memory-mb 3, or a smaller --batch-size"
    )


def len_of_home(block: Block) -> int:
    return len(block.home)


def test_thousand_blocks_are_cut_too():
    """Recursion, a level a block, would end there."""
    assert balanced_cuts(1002, 1001, 0, cost=len_of_home) == (0, *range(1, 1001))
