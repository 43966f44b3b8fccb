"""Which batch is trained on again."""

from runtime.core.replay_buffer import ReplayBuffer


def test_the_least_used_and_of_those_the_newest():
    buffer = ReplayBuffer(3)
    assert buffer.use() is None
    buffer.add(0)
    assert [buffer.use() for _ in range(2)] == [0, 0]
    buffer.add(1)
    buffer.add(2)
    assert [buffer.use() for _ in range(6)] == [2, 1, 2, 1, 2, 1]
    buffer.add(3)
    assert 0 not in buffer
    assert [buffer.use() for _ in range(6)] == [3, 3, 3, 3, 2, 1]


def test_one_without_room_keeps_nothing():
    buffer = ReplayBuffer(0)
    buffer.add(0)
    assert 0 not in buffer
    assert buffer.use() is None
