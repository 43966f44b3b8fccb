"""Which generations of a neighbour are believed to exist."""

from runtime.core.plan import Side
from runtime.worker.generations import LOOK_EVERY_S, Generations


class Case:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.published = {Side.BELOW: 0, Side.ABOVE: 3}
        self.num_looks = 0
        self.generations = Generations(self._find, clock=lambda: self.now_s)

    def _find(self, side: Side) -> int:
        self.num_looks += 1
        return self.published[side]


def test_generation_that_was_published_is_believed():
    case = Case()
    assert case.generations.has(Side.ABOVE, 3)
    assert case.generations.has(Side.ABOVE, 0)
    assert case.generations.has(Side.BELOW, 0)
    assert case.num_looks == 2


def test_generation_that_was_not_is_looked_for_now_and_then():
    case = Case()
    for _ in range(1000):
        assert not case.generations.has(Side.BELOW, 10**6)
    assert case.num_looks == 1
    case.now_s += LOOK_EVERY_S
    case.published[Side.BELOW] = 1
    assert not case.generations.has(Side.BELOW, 10**6)
    assert case.generations.has(Side.BELOW, 1)
    assert case.num_looks == 2
