"""Memory of a worker, as its keeper owns it."""

from collections.abc import Iterator

import pytest

from runtime.state.status_page import OwnedMemory


@pytest.fixture
def memory() -> Iterator[OwnedMemory]:
    owned = OwnedMemory("test")
    yield owned
    owned.close()
