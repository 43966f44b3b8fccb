"""Attacks on the coordinator's socket: forged results, garbage, and peers that are none.

Owns what is sent there. Knows nothing of what a run makes of it.
"""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack

import zmq

from benchmarks.security import forged, zmtp
from benchmarks.security.connections import connection, greet, is_open, read, write
from benchmarks.security.sight import Listening, Sight
from benchmarks.security.stranger import Means, Report

FORGED_BLOCK = 1
HUGE_BYTES = 512 << 20
REALLY_SENT_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
SCANNED_A_SECOND = 20
NUM_BLOCKS, NUM_GENERATIONS = 3, 3
SETTLED_S = 1.0  # until peers are taken, or refused
GET = b"GET / HTTP/1.1\r\nHost: loco\r\n\r\n"


def dealer(address: Listening, mechanism: str = "NULL", identity: bytes = b"") -> zmq.Socket[bytes]:
    """A peer as the runtime's own, with the keys or the password that a stranger can think of."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 500)  # refused is refused: it must not cost the budget
    if identity:
        socket.setsockopt(zmq.IDENTITY, identity)
    if mechanism == "CURVE":
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey, _ = zmq.curve_keypair()
    elif mechanism == "PLAIN":
        socket.plain_username, socket.plain_password = b"worker", b"worker"
    host, port = address
    socket.connect(f"tcp://{host}:{port}")
    return socket


def offer(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> bool:
    """Send without waiting; a peer that was refused has nobody to send to any more."""
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def forge_result(sight: Sight, means: Means, mechanism: str) -> Report:
    """Hand in a result for a worker that has not ended, once."""
    sockets = [dealer(address, mechanism, secrets.token_bytes(5)) for address in sight.coordinator]
    sent = sum(offer(socket, forged.result(FORGED_BLOCK)) for socket in sockets)
    means.budget.over.wait()
    return {"sent": sent}


def garbage_every_second(sight: Sight, means: Means) -> Report:
    """One message a second that is no message."""
    sockets = {address: dealer(address) for address in sight.coordinator}
    sent = refused = 0
    while True:
        for address, socket in sockets.items():
            if offer(socket, [secrets.token_bytes(30)]):
                sent += 1
            else:
                refused += 1
                socket.close()
                sockets[address] = dealer(address)
        if not means.budget.rest(1.0):
            return {"sent": sent, "refused_connections": refused}


def scan_and_get(sight: Sight, means: Means) -> Report:
    """A port scan, connect and close; and an HTTP GET now and then."""
    scanned = got = 0
    while True:
        for address in sight.targets:
            with connection(address):
                scanned += 1
            with connection(address) as opened:
                if opened is not None:
                    got += write(opened, [GET])
                    read(opened, 1)
        if not means.budget.pay() or not means.budget.rest(1 / SCANNED_A_SECOND):
            return {"scanned": scanned, "http_gets": got}


def send_huge_frame(sight: Sight, means: Means) -> Report:
    """Announce a frame of 512 MB; send as much of it as is taken, up to 64 MB, and never end it."""
    taken = {}
    with ExitStack() as stack:
        for address in sight.coordinator:
            opened = stack.enter_context(connection(address))
            if opened is None:
                continue
            greet(opened, "NULL", b"huge")
            write(opened, [zmtp.frame_start(HUGE_BYTES)])
            taken[address[1]] = 0
            piece = bytes(PIECE_BYTES)
            while taken[address[1]] < REALLY_SENT_BYTES and means.budget.pay():
                if not write(opened, [piece]) or not is_open(opened):
                    break
                taken[address[1]] += PIECE_BYTES
        means.budget.over.wait()
    whole = [port for port, size in taken.items() if size >= REALLY_SENT_BYTES]
    worked = ["all that was sent of the frame was taken, 64 MB"] if whole else []
    return {"worked": worked, "taken_bytes": taken}


def squat_identities(sight: Sight, means: Means) -> Report:
    """Be every worker's peer before it is one: take its identity, that of now and those to come."""
    sockets = [
        dealer(address, identity=f"{block}/{generation}".encode())
        for address in sight.coordinator
        for block in range(NUM_BLOCKS)
        for generation in range(NUM_GENERATIONS)
    ]
    squatted = sum(offer(socket, forged.report(0)) for socket in sockets)
    means.budget.rest(SETTLED_S)
    means.armed()
    heard = 0
    while means.budget.rest(0.2):
        for socket in sockets:
            while socket.poll(0):
                socket.recv_multipart()
                heard += 1
    worked = [f"it heard {heard} orders to workers"] if heard else []
    return {"worked": worked, "squatted": squatted, "heard": heard}
