"""Attacks on the coordinator's socket: forged results, garbage, and peers that are none.

Owns what is sent there. Knows nothing of what a run makes of it.
"""

import secrets
import time
from contextlib import ExitStack

import zmq

from benchmarks.security import forged, zmtp
from benchmarks.security.connections import connection, is_open, read, write
from benchmarks.security.sight import Listening, Sight
from benchmarks.security.stranger import Means, Report

FORGED_BLOCK = 1
HUGE_BYTES = 512 << 20
REALLY_SENT_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
SCANNED_A_SECOND = 20
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


def forge_result(sight: Sight, means: Means, mechanism: str) -> Report:
    """Hand in a result for a worker that has not ended, once."""
    sockets = [dealer(address, mechanism, secrets.token_bytes(5)) for address in sight.coordinator]
    for socket in sockets:
        socket.send_multipart(forged.result(FORGED_BLOCK))
    means.budget.over.wait()
    return {"sent": len(sockets)}


def garbage_every_second(sight: Sight, means: Means) -> Report:
    """One message a second that is no message."""
    sockets = [dealer(address) for address in sight.coordinator]
    sent = 0
    while True:
        for socket in sockets:
            socket.send(secrets.token_bytes(30))
            sent += 1
        if not means.budget.rest(1.0):
            return {"sent": sent}


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
            write(opened, [zmtp.opening("NULL", b"huge"), zmtp.frame_start(HUGE_BYTES)])
            taken[address[1]] = 0
            piece = bytes(PIECE_BYTES)
            while taken[address[1]] < REALLY_SENT_BYTES and means.budget.pay():
                if not write(opened, [piece]) or not is_open(opened):
                    break
                taken[address[1]] += PIECE_BYTES
        means.budget.over.wait()
    return {"taken_bytes": taken}


def squat_identities(sight: Sight, means: Means) -> Report:
    """Be every worker's peer before it is: bind to its identity, and listen."""
    sockets = [
        dealer(address, identity=f"{block}/{generation}".encode())
        for address in sight.coordinator
        for block in range(3)
        for generation in range(3)
    ]
    for socket in sockets:
        socket.send(forged.report(0))
    heard, until_s = 0, time.monotonic()
    while means.budget.rest(0.2) and time.monotonic() >= until_s:
        for socket in sockets:
            while socket.poll(0):
                socket.recv_multipart()
                heard += 1
    return {"heard": heard, "worked": [f"it heard {heard} orders to workers"] if heard else []}
