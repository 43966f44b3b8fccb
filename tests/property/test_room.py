"""With the least room to retain messages: what makes receivers take snapshots in time.

Senders ask for one, and a receiver takes one before a step that would need what its sender can't
retain. Most plans bear the loss of either; these need it.
"""

import pytest

from runtime.core.edges import Edges

from .core_network import Case, Network

NUM_TURNS = 100


def tight(lag: int) -> Network:
    """Two workers with as little room as there may be, and no snapshot before the end."""
    case = Case(
        num_workers=2, num_steps=25, lag=lag, tied=True, size=2, spare=0, snapshot_every=100
    )
    return Network(case)


def go_on(network: Network, *, slow: bool = False) -> None:
    """Let all happen that can without a tick; if `slow`, worker 0's snapshots do not end."""
    for _ in range(NUM_TURNS):
        for edge in network.moving():
            network.deliver(edge)
        for k, node in enumerate(network.nodes):
            if node.works:
                network.finish(k)
            elif node.saving is not None and (k > 0 or not slow):
                network.save(k)


def run(network: Network) -> bool:
    """Whether it comes to its end."""
    for _ in range(NUM_TURNS):
        go_on(network)
        if network.are_done:
            return True
        network.tick()
    return False


def kill_while_a_snapshot_is_not_safe(lag: int) -> Network:
    """The sender above fills all its room meanwhile; the new one begins with nothing covered."""
    network = tight(lag)
    go_on(network, slow=True)
    network.tick()
    network.kill(0, lose_in=False, lose_out=False)
    return network


def no_one_asks(monkeypatch):
    monkeypatch.setattr(Edges, "ask_for_room", lambda self, stream: iter(()))


def steps_outrun_room(monkeypatch):
    monkeypatch.setattr(Edges, "outruns_room", lambda *_, **__: False)


@pytest.mark.parametrize("lag", range(7))
def test_least_room_is_enough(lag):
    assert run(tight(lag))
    network = kill_while_a_snapshot_is_not_safe(lag)
    assert run(network)
    network.check_end()


@pytest.mark.parametrize(("lag", "ends"), [(0, True), (1, True), (3, False), (6, False)])
def test_sender_must_ask_if_the_lag_is_longer_than_the_window(lag, ends, monkeypatch):
    """The receiver waits at a boundary for credit, and needs nothing yet that is not retained."""
    no_one_asks(monkeypatch)
    assert run(tight(lag)) == ends


def test_snapshot_request_that_comes_too_late_is_none(monkeypatch):
    """A new generation was asked when it had begun the step that it then could not end."""
    steps_outrun_room(monkeypatch)
    assert run(tight(0))
    assert not run(kill_while_a_snapshot_is_not_safe(0))
