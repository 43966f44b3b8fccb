"""Cuts as numbers: which units each block holds, what is refused, and the balanced choice."""

import contextlib
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from launch.config import Overlap
from launch.planning.partition import Block, Partition, Sharing, balanced_cuts


def test_homes_are_consecutive_and_guests_begin_the_next_home():
    partition = Partition(num_units=5, cuts=(0, 1, 2, 3), overlaps=(1, 1, 1))
    none = range(0)
    assert partition.blocks == (
        Block(index=0, home=range(0, 1), guest=range(1, 2), lent=none),
        Block(index=1, home=range(1, 2), guest=range(2, 3), lent=range(1, 2)),
        Block(index=2, home=range(2, 3), guest=range(3, 4), lent=range(2, 3)),
        Block(index=3, home=range(3, 5), guest=none, lent=range(3, 4)),
    )
    assert partition.num_blocks == 4


def test_overlap_0_makes_no_guests():
    blocks = Partition(num_units=3, cuts=(0, 2), overlaps=(0,)).blocks
    assert [len(block.guest) for block in blocks] == [0, 0]


def test_one_block_holds_all_and_has_no_guest():
    (block,) = Partition(num_units=3, cuts=(0,), overlaps=()).blocks
    assert (block.home, len(block.guest), len(block.lent)) == (range(3), 0, 0)


def test_overlaps_may_be_whole_homes_and_differ():
    """LoCo's three units of ResNet-50: guests of four units and of six."""
    partition = Partition(num_units=17, cuts=(0, 4, 8), overlaps=(4, 6))
    assert [block.guest for block in partition.blocks] == [range(4, 8), range(8, 14), range(0)]


@pytest.mark.parametrize(
    ("num_units", "cuts", "overlaps", "message"),
    [
        (5, (), (), "cuts  must begin with 0, the first unit"),
        (5, (1, 2), (0,), "cuts 1,2 must begin with 0, the first unit"),
        (5, (0, 2, 2), (0, 0), "cuts 0,2,2 are out of order; each must exceed the last"),
        (5, (0, 3, 1), (0, 0), "cuts 0,3,1 are out of order; each must exceed the last"),
        (5, (0, 5), (0,), "cuts 0,5 end past the last unit; the highest is 4"),
        (5, (0, 2), (-1,), "overlap -1 is negative; 0 shares nothing"),
        (
            5,
            (0, 1, 3),
            (3, 1),
            "overlap 3 exceeds the home of units 1..2; with cuts 0,1,3 edge 0 can share 2 at most",
        ),
        (
            5,
            (0, 1, 3),
            (1,),
            "overlap 1 has 1 numbers for 2 edges; give one for all, or one per edge",
        ),
    ],
)
def test_refusal_gives_the_value_and_the_remedy(num_units, cuts, overlaps, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Partition(num_units=num_units, cuts=cuts, overlaps=overlaps)
    assert str(caught.value) == message


# What is shared ---------------------------------------------------------------------------------

STAGES = (0, 3, 5)  # of eight units


def shared(overlap: Overlap, cuts: tuple[int, ...]) -> tuple[int, ...]:
    sharing = Sharing(overlap, stages=STAGES)
    return Partition.shared(num_units=8, cuts=cuts, sharing=sharing).overlaps


def test_number_is_shared_of_each_home_above_an_edge():
    assert shared(2, (0, 2, 5)) == (2, 2)
    assert shared((1, 3), (0, 2, 5)) == (1, 3)


@pytest.mark.parametrize(
    ("cuts", "overlaps"),
    [
        ((0, 3, 5), (2, 3)),  # whole stages
        ((0, 1, 3, 5), (2, 2, 3)),  # the stem has a block of its own
        ((0, 4), (1,)),  # the rest of the stage that begins above the cut
        ((0, 1, 2, 4), (1, 1, 1)),  # within that home
        ((0, 6), (2,)),  # the last stage ends with the network
    ],
)
def test_stage_is_shared_up_to_its_end_within_the_home(cuts, overlaps):
    assert shared("stage", cuts) == overlaps


def test_overlap_longer_than_a_home_is_refused_for_these_cuts():
    with pytest.raises(ValueError, match=r"overlap 4 exceeds the home of units 2\.\.4"):
        shared((4, 1), (0, 2, 5))


def test_figures_for_other_edges_are_refused():
    for overlap in ((1,), (1, 1, 1)):
        with pytest.raises(ValueError, match="numbers for 2 edges"):
            shared(overlap, (0, 2, 5))


@pytest.mark.parametrize(("overlap", "most"), [(0, 8), (1, 8), (2, 4), (3, 3), ("stage", 8)])
def test_blocks_are_as_many_as_the_overlaps_leave_units_for(overlap, most):
    assert Sharing(overlap, stages=STAGES).most_blocks(8) == most


# Balance ----------------------------------------------------------------------------------------


def balanced(costs: list[float], num_blocks: int, overlap: Overlap) -> tuple[int, ...]:
    """The cuts for costs of units alone."""
    return balanced_cuts(len(costs), num_blocks, Sharing(overlap), cost=summed(costs))


def summed(costs: list[float]) -> Callable[[Block], float]:
    return lambda block: sum(costs[i] for i in (*block.home, *block.guest))


def all_partitions(num_units: int, num_blocks: int, sharing: Sharing) -> list[Partition]:
    """Every way to cut, lowest first."""
    found = []
    for rest in itertools.combinations(range(1, num_units), num_blocks - 1):
        with contextlib.suppress(ValueError):  # a home is shorter than what is shared of it
            cuts = (0, *rest)
            found.append(Partition.shared(num_units=num_units, cuts=cuts, sharing=sharing))
    return found


def lowest_worst(
    partitions: list[Partition], cost: Callable[[Block], float]
) -> list[tuple[int, ...]]:
    """All cuts whose costliest block is cheapest, lowest first."""
    worst = {p.cuts: max(cost(block) for block in p.blocks) for p in partitions}
    return sorted(cuts for cuts, found in worst.items() if found == min(worst.values()))


@st.composite
def small_networks(draw) -> tuple[int, int, Sharing]:
    """Units, blocks, and what they share: a number, one per edge, or stages."""
    num_units, num_blocks = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    numbers = st.integers(0, 3)
    per_edge = st.tuples(*[numbers] * (num_blocks - 1))
    overlap = draw(st.one_of(numbers, per_edge, st.just("stage")))
    above = draw(st.sets(st.integers(1, 8)))
    return num_units, num_blocks, Sharing(overlap, stages=(0, *sorted(above)))


DRAW = st.randoms(use_true_random=False)


def drawn(draw: random.Random) -> Callable[[Block], float]:
    """A figure for each block that knows all of it: index, home and guest, as a head's does."""
    figures: dict[Block, float] = {}
    return lambda block: figures.setdefault(block, draw.randrange(7))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(network=small_networks(), draw=DRAW)
def test_balanced_cuts_are_the_cheapest_of_all(network, draw):
    num_units, num_blocks, sharing = network
    cost = drawn(draw)
    if num_units < sharing.least_units(num_blocks):
        with pytest.raises(ValueError, match=r"at most .* do|at least"):
            balanced_cuts(num_units, num_blocks, sharing, cost=cost)
        return
    cuts = balanced_cuts(num_units, num_blocks, sharing, cost=cost)
    best = lowest_worst(all_partitions(num_units, num_blocks, sharing), cost)
    assert cuts in best
    assert cuts[:2] == best[0][:2]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(network=small_networks(), draw=DRAW, max_memory_mb=st.integers(0, 7))
def test_balanced_cuts_under_a_bound_are_the_cheapest_that_fit(network, draw, max_memory_mb):
    num_units, num_blocks, sharing = network
    partitions = all_partitions(num_units, num_blocks, sharing)
    assume(partitions)
    cost, memory_mb = drawn(draw), drawn(draw)
    fit = [p for p in partitions if max(map(memory_mb, p.blocks)) <= max_memory_mb]

    def under(bound: int) -> tuple[int, ...]:
        return balanced_cuts(
            num_units, num_blocks, sharing, cost=cost, memory_mb=memory_mb, max_memory_mb=bound
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
            3,
            2,
            Sharing(0),
            cost=len_of_home,
            memory_mb=lambda b: 1.5 * len(b.home),
            max_memory_mb=2,
        )
    assert str(caught.value) == (
        "max-memory-mb 2 is too little: no cut into 2 blocks with overlap 0 holds every worker"
        " within it; give --max-memory-mb 3, or a smaller --batch-size"
    )


def len_of_home(block: Block) -> int:
    return len(block.home)


def test_thousand_blocks_are_cut_too():
    """Recursion, a level a block, would end there."""
    assert balanced_cuts(1002, 1001, Sharing(0), cost=len_of_home) == (0, *range(1, 1001))
