"""Pairs of drivers, ended with their test; each test runs over both kinds of link."""

from collections.abc import Iterator

import pytest

from .pair import Pair


@pytest.fixture(params=[False, True], ids=["zmq", "shm"])
def make_pair(request, tmp_path) -> Iterator:
    pairs = []

    def make(**arguments):
        pairs.append(Pair(tmp_path, shares_memory=request.param, **arguments))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.end()
