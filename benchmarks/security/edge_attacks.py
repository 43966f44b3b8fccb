"""Attacks on an edge between two workers: forged words, and a peer that only listens.

Owns what is sent there. Knows nothing of what a run makes of it.
"""

from collections.abc import Callable, Iterator

import zmq

from benchmarks.security import forged
from benchmarks.security.coordinator_attacks import dealer, offer
from benchmarks.security.sight import Listening, Sight
from benchmarks.security.store_attacks import announcement_key, open_store
from benchmarks.security.stranger import Means, Report

SAID_TIMES = 40  # a socket that shares out, and one that fences, may not hear the first
SAID_EVERY_S = 0.05
FAR_STEP = 50  # of the 60 that a run has in which this is tried


def announced(sight: Sight) -> forged.Announced:
    store = open_store(sight.store)
    return forged.Announced(store.get(announcement_key(store)))


def ports(sight: Sight) -> Iterator[tuple[int, Listening]]:
    """Each address at which a worker listens, with its block."""
    for block, addresses in sight.edges.items():
        for address in addresses:
            yield block, address


def _say(sight: Sight, means: Means, word: Callable[[int], bytes]) -> Report:
    found = announced(sight)
    words = [
        (dealer(address, mechanism), word(found.edge(block)))
        for block, address in ports(sight)
        for mechanism in ("NULL", "PLAIN", "CURVE")
    ]
    sent = 0
    for _ in range(SAID_TIMES):
        sent += sum(offer(socket, [said]) for socket, said in words)
        if not means.budget.rest(SAID_EVERY_S):
            break
    means.budget.over.wait()
    return {"sent": sent, "offered": SAID_TIMES * len(words)}


def say_far_hello(sight: Sight, means: Means) -> Report:
    """Be a neighbour of generation 10^6, beside whom all others are of the past."""
    return _say(sight, means, forged.far_hello)


def say_stop_3(sight: Sight, means: Means) -> Report:
    """Order a stop before a step that is long done."""
    return _say(sight, means, lambda edge: forged.stop(3, edge))


def say_stop_far(sight: Sight, means: Means) -> Report:
    """Order a stop before a step that is far off."""
    return _say(sight, means, lambda edge: forged.stop(FAR_STEP, edge))


def listen_silently(sight: Sight, means: Means) -> Report:
    """Connect to each edge, say nothing, and count what comes."""
    sockets = [
        dealer(address, mechanism)
        for _, address in ports(sight)
        for mechanism in ("NULL", "PLAIN", "CURVE")
    ]
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    messages = size = 0
    while not means.budget.over.is_set():
        for socket, _ in poller.poll(200):
            size += sum(map(len, socket.recv_multipart()))
            messages += 1
        means.budget.pay()
    worked = [f"it got {messages} messages, {size / 1e6:.0f} MB"] if messages else []
    return {"worked": worked, "peers": len(sockets), "messages": messages, "bytes": size}
