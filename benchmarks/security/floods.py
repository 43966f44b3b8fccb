"""Attacks by quantity: floods, messages that never end, and connections that never get on.

Owns their pace: each takes what its budget allows, and keeps what it may keep open.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice

from benchmarks.security import forged, zmtp
from benchmarks.security.connections import connection, greet, write
from benchmarks.security.edge_attacks import announced, ports
from benchmarks.security.sight import Listening, Sight
from benchmarks.security.stranger import Means, Report

SMALL_FRAMES, WELL_FORMED = 15_000_000, 300_000
FRAMES_A_BLOCK = 8_000
UNFINISHED_BYTES, UNFINISHED_CONNECTIONS = 60 << 20, 6
PIECE_BYTES = 1 << 16
HALF_OPEN, SLOW, HUGE_COMMANDS = 200, 30, 30
REST_S = 0.05


def flood_small(sight: Sight, means: Means) -> Report:
    """Millions of frames of a few bytes, as fast as the budget allows."""
    block = zmtp.frame(b"\x00junk\x00") * FRAMES_A_BLOCK
    return _flood(sight.targets, means, lambda _: block, SMALL_FRAMES)


def flood_well_formed(sight: Sight, means: Means) -> Report:
    """Hundreds of thousands of headers that pass every check of form."""
    found, blocks = announced(sight), dict[Listening, bytes]()
    for block, address in ports(sight):
        headers = forged.well_formed(found.edge(block))
        blocks[address] = b"".join(map(zmtp.frame, islice(headers, FRAMES_A_BLOCK)))
    return _flood(list(blocks), means, blocks.__getitem__, WELL_FORMED)


def _flood(
    targets: Sequence[Listening], means: Means, block: Callable[[Listening], bytes], most: int
) -> Report:
    """Write blocks of frames to each target in turn, opening it again if it was cut off."""
    sent = refused = turn = 0
    opened: dict[Listening, tuple[ExitStack, socket.socket | None]] = {}
    while sent < most and targets and means.budget.pay():
        address = targets[turn % len(targets)]
        turn += 1
        if address not in opened:
            stack = ExitStack()
            found = stack.enter_context(connection(address))
            opened[address] = stack, found
            if found is not None:
                mechanism = zmtp.MECHANISMS[turn // len(targets) % 3] if refused else "NULL"
                greet(found, mechanism, wait_s=0.2)
        stack, found = opened[address]
        if found is not None and write(found, [block(address)], wait_s=0.5):
            sent += FRAMES_A_BLOCK
            continue
        refused += 1
        stack.close()
        del opened[address]
        means.budget.rest(REST_S)
    for stack, _ in opened.values():
        stack.close()
    means.budget.over.wait()
    return {"frames": sent, "refused_connections": refused}


def leave_unfinished(sight: Sight, means: Means) -> Report:
    """Messages of many frames of which the last never comes, on several connections."""
    frame = zmtp.frame(bytes(PIECE_BYTES - 9), more=True)
    taken = 0
    with ExitStack() as stack:
        found = list(_connections(stack, sight.targets, UNFINISHED_CONNECTIONS))
        for opened in found:
            greet(opened, "NULL")
        alive = list(found)
        while alive and taken < UNFINISHED_BYTES * len(sight.targets) and means.budget.pay():
            alive = [opened for opened in alive if write(opened, [frame], wait_s=0.5)]
            taken += len(alive) * PIECE_BYTES
        means.budget.over.wait()
    cut_off = len(found) - len(alive)
    return {"connections": len(found), "taken_bytes": taken, "cut_off": cut_off}


def _connections(
    stack: ExitStack, targets: Sequence[Listening], each: int
) -> Iterator[socket.socket]:
    for _ in range(each):
        for address in targets:
            opened = stack.enter_context(connection(address))
            if opened is not None:
                yield opened


def stay_half_open(sight: Sight, means: Means) -> Report:
    """Connections that say nothing, some that say a byte a second, and some that announce a huge
    command instead of their handshake."""
    greeting = zmtp.greeting("NULL")
    announced_huge = zmtp.frame_start(1 << 40, flags=zmtp.COMMAND)
    with ExitStack() as stack:
        for mechanism in zmtp.MECHANISMS:
            for opened in _connections(stack, sight.targets, HUGE_COMMANDS // 3):
                write(opened, [zmtp.greeting(mechanism), announced_huge, bytes(PIECE_BYTES)])
        silent = list(_connections(stack, sight.targets, HALF_OPEN // max(1, len(sight.targets))))
        slow = list(_connections(stack, sight.targets, SLOW // max(1, len(sight.targets))))
        at = 0
        while means.budget.rest(1.0):
            for opened in slow:
                with contextlib.suppress(OSError):
                    opened.send(greeting[at % 64 : at % 64 + 1])
            at += 1
    return {"half_open": len(silent), "slow": len(slow)}
