"""The simulated network: rates, order, and who shares what.

This is also the test of benchmarks/scale/transfers.py.
"""

import pytest

from benchmarks.scale.host import SLICE_S
from benchmarks.scale.network import Machine, Network, Wire, make_host
from runtime.testing.simulation import Simulation

FAR = Wire(latency_s=0.5, transfer_bytes_per_s=10.0)
BY_CORES = Wire(transfer_bytes_per_s=10.0, takes_cores=True)


def arrivals_s(wire, messages, *, workers_per_host=100):
    """When each (from, to, bytes), all sent at the start, arrives."""
    clock = Simulation([], duration_s=lambda *_: 0.0, latency_s=lambda *_: 0.0)
    hosts = [make_host(clock, Machine(cores=2)) for _ in range(4)]
    network = Network(clock, wire=lambda k, to: wire, host=lambda k: hosts[k // workers_per_host])
    found = {}
    for i, (k, to, size) in enumerate(messages):
        network.carry(k, to, size, lambda i=i: found.update({i: clock.now_s}))
    clock.run()
    return [found[i] for i in range(len(messages))]


def test_message_takes_its_transfer_and_the_latency():
    assert arrivals_s(FAR, [(0, 1, 20)]) == pytest.approx([2.5])


def test_acknowledgement_waits_for_the_tensors_before_it():
    assert arrivals_s(FAR, [(0, 1, 20), (0, 1, 0)]) == pytest.approx([2.5, 2.5])


def test_each_direction_has_the_whole_bandwidth():
    assert arrivals_s(FAR, [(0, 1, 20), (1, 0, 20)]) == pytest.approx([2.5, 2.5])


def test_transfers_by_the_cores_of_one_host_share_them():
    messages = [(0, 1, 10), (2, 3, 10), (4, 5, 10)]
    assert arrivals_s(BY_CORES, messages) == pytest.approx([1.5] * 3, abs=SLICE_S)
    assert arrivals_s(BY_CORES, messages, workers_per_host=2) == pytest.approx([1.0, 1.0, 1.0])


def test_worker_carries_one_transfer_at_a_time_by_its_cores():
    """Both directions of an edge, and both edges of a worker."""
    assert arrivals_s(BY_CORES, [(0, 1, 10), (1, 0, 10)]) == pytest.approx([1.0, 2.0])
    assert arrivals_s(BY_CORES, [(0, 1, 10), (2, 1, 10), (2, 3, 10)]) == pytest.approx([1, 2, 3])


def test_acknowledgement_waits_only_for_tensors_on_its_way():
    messages = [(1, 0, 10), (0, 1, 20), (0, 1, 0), (1, 0, 0), (1, 2, 0)]
    assert arrivals_s(BY_CORES, messages) == pytest.approx([1.0, 3.0, 3.0, 1.0, 0.0])
    assert arrivals_s(BY_CORES, [(0, 1, 10), (0, 1, 10), (0, 1, 0)]) == pytest.approx([1, 2, 2])


def test_shared_memory_has_no_transfer():
    assert arrivals_s(Wire(), [(0, 1, 10**9)]) == [0.0]
