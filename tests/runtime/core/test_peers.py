"""What a worker knows of a neighbour: its generation, and whether it knows ours."""

import pytest

from runtime.core.peers import Peer

from .words import BELOW, linked


def heard(*hellos, ours: int = 0) -> tuple[Peer, list[bool]]:
    peer = Peer()
    return peer, [peer.hear(hello.message, ours=ours) for hello in hellos]


def test_no_one_is_known_before_a_hello():
    peer = Peer()
    assert (peer.generation, peer.is_linked) == (None, False)
    assert not peer.fences(0)


def test_a_hello_that_does_not_know_us_makes_the_neighbour_known_and_no_more():
    peer, completes = heard(linked(BELOW, 3, to=None))
    assert completes == [False]
    assert (peer.generation, peer.is_linked) == (3, False)


def test_a_hello_that_knows_us_completes_the_handshake_once():
    peer, completes = heard(linked(BELOW, to=None), linked(BELOW), linked(BELOW))
    assert completes == [False, True, False]
    assert peer.is_linked


def test_the_first_hello_may_complete_it():
    assert heard(linked(BELOW))[1] == [True]


@pytest.mark.parametrize("known", [0, 2])
def test_a_hello_that_knows_another_life_of_ours_completes_nothing(known):
    peer, completes = heard(linked(BELOW, to=known), ours=1)
    assert completes == [False]
    assert not peer.is_linked


def test_a_new_life_of_the_neighbour_begins_anew():
    peer, completes = heard(linked(BELOW), linked(BELOW, 1, to=None), linked(BELOW, 1))
    assert completes == [True, False, True]
    assert (peer.generation, peer.is_linked) == (1, True)


def test_a_late_hello_of_the_same_life_that_knows_no_one_takes_nothing_back():
    peer, completes = heard(linked(BELOW), linked(BELOW, to=None))
    assert completes == [True, False]
    assert peer.is_linked


def test_only_older_lives_are_fenced_off():
    peer, _ = heard(linked(BELOW, 2))
    assert [peer.fences(generation) for generation in range(4)] == [True, True, False, False]
    with pytest.raises(AssertionError):
        peer.hear(linked(BELOW, 1).message, ours=0)
