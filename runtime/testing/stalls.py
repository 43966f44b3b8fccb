"""Random stalls of blocks that sleep: how much longer a block takes at a step, drawn in advance.

Owns the notation and the draws. A stall is a pure function of (kind, block, step), so that every
system that is measured, and the simulation, meets the same ones. Knows nothing of who stalls.
"""

import hashlib
import math
import re
from collections.abc import Callable

Stall = Callable[[int, int], float]  # (block, step) -> extra time, in block times

NOTATIONS = "exponential:0.2 (its mean), rare:0.02x10 (how often, and how long)"
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"


def parse_stalls(text: str, *, seed: int = 0) -> Stall:
    """Return the stalls that `text` names, in multiples of the block's time; "" is none at all.

    "exponential:0.2" draws a stall for every step of every block from an exponential distribution
    of that mean; "rare:0.02x10" lets a step in 50 take 10 block times longer. Raises ValueError
    for any other notation.
    """
    if not text:
        return lambda _block, _step: 0.0
    if found := re.fullmatch(f"exponential:{_NUMBER}", text):
        mean = float(found[1])
        return lambda block, step: -mean * math.log(_uniform(seed, text, block, step))
    if found := re.fullmatch(f"rare:{_NUMBER}x{_NUMBER}", text):
        often, length = float(found[1]), float(found[2])
        if often <= 1:
            return lambda block, step: length * (_uniform(seed, text, block, step) <= often)
    raise ValueError(f"jitter {text!r} is none of {NOTATIONS}")


def _uniform(seed: int, kind: str, block: int, step: int) -> float:
    """A number in (0, 1]; equal arguments give equal numbers on any machine."""
    key = hashlib.blake2b(f"{seed}/{kind}/{block}/{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(key, "little") + 1) / 2**64
