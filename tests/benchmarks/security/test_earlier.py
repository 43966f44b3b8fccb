"""What is recorded of an earlier run is what was sent, in its order."""

import struct

from benchmarks.security.earlier import MOST_BYTES, Earlier, Wire, streams_of

ACK, SYN = 0x10, 0x02


def packet(source, target, sequence, payload=b"", flags=ACK):
    tcp = struct.pack(">HHIIBBHHH", source, target, sequence, 0, 5 << 4, flags, 0, 0, 0)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 6, 0, bytes(4), bytes(4))
    return ip + tcp + payload


def wire(*packets):
    found = Wire.__new__(Wire)  # without a socket: to listen takes root
    found._flows, found._first = {}, {}
    for one in packets:
        found.take(one)
    return found


def test_stream_is_put_together_by_its_sequence():
    start = 0xFFFFFFFE  # it may wrap around
    found = wire(
        packet(9, 80, start, flags=SYN),
        packet(9, 80, 1, b"cd"),
        packet(9, 80, start + 1, b"ab"),
        packet(9, 80, start + 1, b"ab"),
        packet(80, 9, 5, b"answer"),
    )
    assert found.sent_to({80}) == [b"abcd"]
    assert found.sent_to({81}) == []


def test_stream_ends_at_a_gap_and_begins_with_its_connection():
    found = wire(packet(9, 80, 0, flags=SYN), packet(9, 80, 1, b"ab"), packet(9, 80, 4, b"d"))
    assert found.sent_to({80}) == [b"ab"]
    assert wire(packet(9, 80, 1, b"ab")).sent_to({80}) == [], "its beginning was not seen"


def test_stream_is_recorded_up_to_a_bound():
    found = wire(packet(9, 80, 0, flags=SYN), packet(9, 80, MOST_BYTES + 2, b"far"))
    assert found.sent_to({80}) == []


def test_recording_survives_its_file(tmp_path):
    found = wire(packet(9, 80, 0, flags=SYN), packet(9, 80, 1, b"ab"))
    streams = streams_of(found, (("h", 80),), {0: (("h", 81),)})
    earlier = Earlier(store={"loco/0/job": b"\xff{}"}, streams=streams)
    earlier.write(tmp_path / "earlier")
    assert Earlier.read(str(tmp_path / "earlier")) == earlier
    assert earlier.streams == {"coordinator": [b"ab"], "edge": []}
    assert Earlier.read(str(tmp_path / "none")) == Earlier()
