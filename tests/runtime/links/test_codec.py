"""The wire format: what is written is read back, and nothing else is."""

import msgpack
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.block import TensorSpec
from runtime.core.messages import Ack, Data, Hello, SnapshotRequest, Stop
from runtime.core.plan import Stream
from runtime.links import codec
from runtime.links.codec import BadMessage, fingerprint
from runtime.links.guards import Checksums, Macs, digest_of
from runtime.trust.keys import RunKeys

HELLO = Hello(generation=2, to=1, asks=True, wants={Stream.ACTIVATION: 7, Stream.TIE_UP: 6})
FIRST_HELLO = Hello(generation=0, to=None, asks=False, wants={})
ACK = Ack(
    stream=Stream.TIE_DOWN, generation=1, to=2, expected=5, released=4, durable=3, resend=True
)
DATA = Data(stream=Stream.ACTIVATION, step=12, generation=3, to=1, absent=False, checksum=2**64 - 1)
REQUEST = SnapshotRequest(stream=Stream.TIE_UP, generation=3, to=1, durable=17)
STOP = Stop(generation=3, to=1, step=40)
NO_CHECKSUM = bytes(16)
MESSAGES = [HELLO, FIRST_HELLO, ACK, DATA, REQUEST, STOP]


def encode(message, *, edge: int = 0) -> bytes:
    return codec.encode(message, Checksums(edge, covers_tensors=True), edge=edge)


def decode(frame: bytes, *, edge: int = 0):
    return codec.decode(frame, Checksums(edge, covers_tensors=True), edge=edge)


def checksum(payload) -> int:
    return digest_of(xxhash.xxh3_64, payload)


def macs(*, is_lower: bool, secret: bytes = b"secret", run_id: str = "run", edge: int = 0) -> Macs:
    return Macs(RunKeys(secret, run_id).edge(edge, is_lower=is_lower))


@pytest.mark.parametrize("message", MESSAGES)
def test_header_is_read_back(message):
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES)
def test_signed_header_is_read_back_by_the_other_end_alone(message):
    frame = codec.encode(message, macs(is_lower=True), edge=5)
    assert codec.decode(frame, macs(is_lower=False), edge=5) == message
    strangers = {
        "the same end": macs(is_lower=True),
        "another secret": macs(is_lower=False, secret=b"guess"),
        "another run": macs(is_lower=False, run_id="earlier"),
        "another edge": macs(is_lower=False, edge=1),
    }
    for stranger in strangers.values():
        with pytest.raises(BadMessage):
            codec.decode(frame, stranger, edge=5)


@pytest.mark.parametrize("message", MESSAGES)
def test_flipped_bits_of_a_signed_header_are_all_noticed(message):
    frame = codec.encode(message, macs(is_lower=True))
    for position in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(BadMessage):
            codec.decode(bytes(damaged), macs(is_lower=False))


def test_signed_tensors_are_those_that_were_sent_and_no_others():
    a, b = torch.arange(6.0), torch.arange(6)
    ours, theirs = macs(is_lower=True), macs(is_lower=False)
    signed = digest_of(ours.makes_hash, (a, b))
    assert theirs.fits((a, b), signed)
    assert not theirs.fits((b, a), signed)
    assert not theirs.fits((a, b + 1), signed)
    assert not ours.fits((a, b), signed), "what one end signs is not what it would receive"


@pytest.mark.parametrize("message", [DATA, HELLO])
def test_header_of_another_edge_is_told_apart(message):
    frame = encode(message, edge=5)
    assert decode(frame, edge=5) == message
    with pytest.raises(BadMessage, match="another run"):
        decode(frame, edge=6)


@pytest.mark.parametrize("message", MESSAGES)
def test_flipped_bits_of_a_header_are_all_noticed(message):
    frame = encode(message)
    for position in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(BadMessage):
            decode(bytes(damaged))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["bye"],
        [["data"], 1],
        ["ack", "activation", 1, 2],
        ["ack", "sideways", 0, 0, 0, 0, 0, False],
        ["ack", "activation", 0, 0, 0, 0, 0, 1],
        ["data", "activation", -1, 0, 0, False, NO_CHECKSUM],
        ["data", "activation", True, 0, 0, False, NO_CHECKSUM],
        ["data", "activation", 1, 0, 0, 1, NO_CHECKSUM],
        ["data", "activation", 1, 0, None, False, NO_CHECKSUM],
        ["data", "activation", 1, 0, 0, False, NO_CHECKSUM, 0],
        ["data", "activation", 1, 0, 0, False, 0],
        ["data", "activation", 1, 0, 0, False, b"short"],
        ["hello", 0, None, True, [1], 0],
        ["hello", 0, -1, True, {}, 0],
        ["hello", 0, None, None, {}, 0],
        ["hello", 0, None, True, {"activation": 1.5}, 0],
        ["hello", 0, None, True, {"sideways": 1}, 0],
        ["hello", 0, None, True, {}, 3],
        ["hello"],
        ["snapshot", "activation", 0, 0],
        ["snapshot", "activation", 0, 0, -1],
        ["snapshot", 0, 0, 0, 1],
        ["stop", 0, 0],
        ["stop", 0, 0, 1.0],
        {"data": 1},
        17,
    ],
)
def test_whole_header_with_wrong_fields_is_no_message(fields):
    body = msgpack.packb(fields)
    with pytest.raises(BadMessage):
        decode(xxhash.xxh3_64_digest(body) + body)


@given(st.binary(max_size=200))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_random_bytes_are_no_message(data):
    with pytest.raises(BadMessage):
        decode(data)


@given(st.binary(max_size=100))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_random_bytes_with_a_right_checksum_are_no_message(body):
    with pytest.raises(BadMessage):
        decode(xxhash.xxh3_64_digest(body) + body)


def test_checksum_sees_every_tensor_and_its_order():
    a, b = torch.arange(6.0), torch.arange(6)
    assert checksum((a, b)) != checksum((b, a))
    changed = a.clone()
    changed[3] += 1e-6
    assert checksum((a, b)) != checksum((changed, b))
    assert checksum((a.clone(), b.clone())) == checksum((a, b))


def test_checksum_takes_empty_and_scalar_tensors():
    assert checksum((torch.empty(0), torch.tensor(3))) == checksum((torch.tensor(3),))


def test_fingerprints_differ_between_ends_that_would_not_fit():
    spec = TensorSpec(shape=(2, 3), dtype="float32")
    base = fingerprint("run", {Stream.ACTIVATION: (spec,)})
    others = [
        fingerprint("another run", {Stream.ACTIVATION: (spec,)}),
        fingerprint("run", {Stream.TIE_UP: (spec,)}),
        fingerprint("run", {Stream.ACTIVATION: (spec, spec)}),
        fingerprint("run", {Stream.ACTIVATION: (TensorSpec(shape=(3, 2), dtype="float32"),)}),
        fingerprint("run", {Stream.ACTIVATION: (TensorSpec(shape=(2, 3), dtype="float64"),)}),
    ]
    assert base not in others
    assert len(set(others)) == len(others)


def test_data_without_its_edges_seed_is_no_message():
    """Only a hello may come with a checksum that any run could make."""
    with pytest.raises(BadMessage, match="no hello"):
        decode(encode(DATA), edge=5)
