"""Pairs of drivers, ended with their test."""

from collections.abc import Iterator

import pytest

from .pair import Pair


@pytest.fixture
def make_pair(tmp_path) -> Iterator:
    pairs = []

    def make(**arguments):
        pairs.append(Pair(tmp_path, **arguments))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.end()
