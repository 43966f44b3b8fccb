"""What a worker knows of a neighbour: its generation, and whether it knows ours."""

import pytest

from runtime.core.peers import Peer

from .words import BELOW, linked


def heard(*hellos, ours: int = 0) -> tuple[Peer, list[bool]]:
    peer = Peer()
    return peer, [peer.hear(hello.message, ours=ours) for hello in hellos]


def test_peer_is_unknown_before_a_hello():
    peer = Peer()
    assert (peer.generation, peer.is_linked) == (None, False)
    assert not peer.fences(0)


def test_hello_that_does_not_know_us_makes_the_peer_known_only():
    peer, completes = heard(linked(BELOW, 3, to=None))
    assert completes == [False]
    assert (peer.generation, peer.is_linked) == (3, False)


def test_hello_that_knows_us_completes_the_handshake_once():
    peer, completes = heard(linked(BELOW, to=None), linked(BELOW), linked(BELOW))
    assert completes == [False, True, False]
    assert peer.is_linked


def test_first_hello_may_complete_the_handshake():
    assert heard(linked(BELOW))[1] == [True]


@pytest.mark.parametrize("known", [0, 2])
def test_hello_for_another_generation_of_ours_completes_nothing(known):
    peer, completes = heard(linked(BELOW, to=known), ours=1)
    assert completes == [False]
    assert not peer.is_linked


def test_new_generation_of_a_peer_begins_a_new_handshake():
    peer, completes = heard(linked(BELOW), linked(BELOW, 1, to=None), linked(BELOW, 1))
    assert completes == [True, False, True]
    assert (peer.generation, peer.is_linked) == (1, True)


def test_late_hello_of_one_generation_takes_nothing_back():
    """Said before it knew anyone, and heard behind the one that completed the handshake."""
    peer, completes = heard(linked(BELOW), linked(BELOW, to=None))
    assert completes == [True, False]
    assert peer.is_linked


def test_older_generations_alone_are_fenced_off():
    peer, _ = heard(linked(BELOW, 2))
    assert [peer.fences(generation) for generation in range(4)] == [True, True, False, False]
    with pytest.raises(AssertionError):
        peer.hear(linked(BELOW, 1).message, ours=0)
