"""Which units are evaluated: as chosen, and unasked every unit if that is quick."""

import pytest

from launch.evaluated_units import MOST_FITTED, evaluated_units
from launch.planning.partition import Partition

PARTITION = Partition(num_units=5, cuts=(0, 1, 3), overlaps=(1, 1))


@pytest.mark.parametrize(
    ("choice", "units"), [("units", [0, 1, 2, 3, 4]), ("blocks", [0, 2, 4]), ("last", [4])]
)
def test_choice_is_followed_however_many_images(choice, units):
    for num_train in (10, 10**7):
        assert evaluated_units(PARTITION, num_train=num_train, choice=choice) == units


@pytest.mark.parametrize(
    ("num_train", "units"),
    [(1437, [0, 1, 2, 3, 4]), (MOST_FITTED // 5, [0, 1, 2, 3, 4]), (MOST_FITTED, [0, 2, 4])],
)
def test_large_sets_get_the_ends_of_homes_unasked(num_train, units):
    assert evaluated_units(PARTITION, num_train=num_train) == units


def test_end_to_end_run_has_one_block():
    whole = Partition(num_units=5, cuts=(0,), overlaps=())
    assert evaluated_units(whole, num_train=1, choice="blocks") == [4]
