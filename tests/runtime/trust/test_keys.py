"""What is derived from a secret: other names, other keys; and what they seal."""

import pytest
import zmq
import zmq.utils.z85

from runtime.trust.keys import RunKeys, derive, rendezvous_key
from runtime.trust.sealing import seal, unseal

SECRET = b"0123456789abcdef"


def all_keys(keys: RunKeys) -> list[bytes]:
    edges = [keys.edge(edge, is_lower=True) for edge in range(2)]
    pairs = [keys.edge_pair(edge, is_lower=end) for edge in range(2) for end in (True, False)]
    workers = [keys.worker(k) for k in range(2)]
    return [
        keys.sealing,
        *(key for edge in edges for key in edge),
        *(pair.secret for pair in (*pairs, *workers, keys.coordinator)),
    ]


def test_hkdf_is_that_of_the_rfc():
    """RFC 5869, with the salt and info of this project; as openssl kdf gives it."""
    found = derive(SECRET, "rendezvous")
    assert found == rendezvous_key(SECRET)
    assert found.hex() == "b1415539ccc67dc90efd39162bae1a1dc666480f342866399b49d7d5d12aef6b"


def test_every_name_has_a_key_of_its_own():
    keys = [
        *all_keys(RunKeys(SECRET, "run")),
        *all_keys(RunKeys(SECRET, "run 2")),
        *all_keys(RunKeys(b"another", "run")),
        rendezvous_key(SECRET),
    ]
    assert len(set(keys)) == len(keys)


def test_what_one_end_sends_the_other_receives():
    lower, upper = (RunKeys(SECRET, "run").edge(3, is_lower=end) for end in (True, False))
    assert (lower.sent, lower.received) == (upper.received, upper.sent)
    assert lower.token == upper.token
    assert lower.sent != lower.received


def test_key_pairs_are_those_of_curve():
    pair = RunKeys(SECRET, "run").coordinator
    assert zmq.curve_public(pair.secret) == pair.public
    assert len(zmq.utils.z85.decode(pair.public)) == 32


def test_sealed_text_is_read_under_its_name_and_key_alone():
    sealed = seal(SECRET, "0/edge/1", "tcp://127.0.0.1:5 é")
    assert unseal(SECRET, "0/edge/1", sealed) == "tcp://127.0.0.1:5 é"
    assert unseal(SECRET, "0/edge/2", sealed) is None
    assert unseal(b"another", "0/edge/1", sealed) is None


@pytest.mark.parametrize("position", range(80))
def test_every_flipped_bit_of_sealed_text_is_noticed(position):
    sealed = bytearray(seal(SECRET, "name", "some text that is sealed"))
    sealed[position] ^= 1
    assert unseal(SECRET, "name", bytes(sealed)) is None


@pytest.mark.parametrize("junk", [b"", b" ", b"\xff", b"0" * 64, b"x" * 1_000_000])
def test_junk_is_not_sealed(junk):
    assert unseal(SECRET, "name", junk) is None
