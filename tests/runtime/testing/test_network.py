"""The simulated network: rates, order, and who shares what."""

import math

import pytest

from runtime.testing.network import Cores, Network, Wire

FAR = Wire(latency_s=0.5, transfer_bytes_per_s=10.0)


def test_a_message_takes_its_transfer_and_the_latency():
    assert Network(wire=lambda k, to: FAR).arrival_s(1.0, 0, 1, 20) == pytest.approx(3.5)


def test_a_word_waits_for_the_tensors_before_it():
    network = Network(wire=lambda k, to: FAR)
    network.arrival_s(0.0, 0, 1, 20)
    assert network.arrival_s(0.0, 0, 1, 0) == pytest.approx(2.5)


def test_each_direction_has_the_whole_bandwidth():
    network = Network(wire=lambda k, to: FAR)
    assert network.arrival_s(0.0, 0, 1, 20) == network.arrival_s(0.0, 1, 0, 20)


def test_transfers_by_the_cores_of_one_host_follow_each_other():
    wire = Wire(transfer_bytes_per_s=10.0, takes_cores=True)
    network = Network(wire=lambda k, to: wire, host=lambda k: k // 4)
    arrivals_s = [network.arrival_s(0.0, k, k + 1, 10) for k in (0, 2, 4)]
    assert arrivals_s == [1.0, 2.0, 1.0]


def test_memory_that_is_shared_has_no_transfer():
    assert Network(wire=lambda k, to: Wire()).arrival_s(1.0, 0, 1, 10**9) == 1.0


def test_two_cores_do_three_things_in_two_times():
    cores = Cores(2)
    assert [cores.end_s(0.0, 1.0) for _ in range(3)] == [1.0, 1.0, 2.0]


def test_without_a_number_of_cores_all_work_at_once():
    cores = Cores(None)
    assert {cores.end_s(2.0, 1.0) for _ in range(100)} == {3.0}
    assert math.isfinite(cores.end_s(0.0, 0.0))
