"""Pairs of drivers, ended with their test."""

from collections.abc import Iterator

import pytest
import zmq

from .pair import Pair


@pytest.fixture
def make_pair(tmp_path) -> Iterator:
    context = zmq.Context()
    pairs = []

    def make(**arguments):
        pairs.append(Pair(context, tmp_path, **arguments))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.end()
    context.destroy(linger=0)
