"""What a plan would give, and what lock-step schedules would."""

import pytest

from launch.planning.prediction import predict

from ..runs import light
from .test_rates import EQUAL


def test_prediction_of_four_equal_units_on_four_workers():
    """Half as many times as there are workers: 4 units take 12 in one process, a block 6."""
    found = predict(light(workers=4, threads=1), EQUAL, cores=2)
    assert found.blocks == (6.0, 6.0, 6.0, 3.0)
    assert found.end_to_end / found.step == 2.0
    assert found.one_process == 21.0
    assert found.step_here == 10.5  # two cores share them
    assert predict(light(workers=4, threads=1), EQUAL, cores=8).step_here == 6.0
    assert found.full_rate == 1.0


def test_ties_without_lag_slow_a_step_down():
    found = predict(light(workers=4, lag=0), EQUAL, cores=64)
    assert found.step == pytest.approx(7.0)
    assert found.full_rate == pytest.approx(6 / 7)


def test_gim_gives_as_many_times_as_there_are_workers():
    found = predict(light(workers=4, overlap=0), EQUAL, cores=4)
    assert found.end_to_end / found.step == 4.0


def test_one_process_has_the_whole_network_and_retains_nothing():
    found = predict(light(workers=4), EQUAL, cores=4)
    alone = predict(light(workers=1), EQUAL, cores=4)
    assert found.end_to_end_memory.messages == 0
    assert found.end_to_end_memory.weights == alone.end_to_end_memory.weights
