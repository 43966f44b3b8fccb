"""Phases that say how far they are, printed now and then.

Owns what is printed of what `tell` hears. Imports no torch: what it wraps may run in light
processes.
"""

import re
import sys
import time

from runtime.program import Tell, unheard

FIRST_S = 2.0  # after which a phase that lasts is shown
EVERY_S = 5.0
HOW_FAR = re.compile(r": [\d,]+ of [\d,]+$")


def showing(name: str, tell: Tell = unheard) -> Tell:
    """The same `tell`, which also prints phases that end in ": 12 of 345", at most every 5 s."""
    next_s = float("inf")

    def show(phase: str, *, takes_s: float = 0.0) -> None:
        nonlocal next_s
        tell(phase, takes_s=takes_s)
        now_s = time.monotonic()
        if HOW_FAR.search(phase) is None:
            next_s = now_s + FIRST_S
        elif now_s >= next_s:
            next_s = now_s + EVERY_S
            print(f"{name}: {phase}", file=sys.stderr, flush=True)

    return show
