"""How far the work on a set of images is, told now and then.

Owns when it is told and in which words. Knows nothing of the work.
"""

import os
import time
from pathlib import Path

from models.tell import Tell

TOLD_EVERY_S = 1.0


class Progress:
    """Counts images; `what` names their set. `part` is a file that is touched with every telling,
    by which other processes see that this one goes on."""

    def __init__(self, what: str, tell: Tell, part: Path | None = None) -> None:
        self._what, self._tell, self._part = what, tell, part
        self._doing, self._done, self._total, self._told_s = "", 0, 0, 0.0

    def begin(self, doing: str, total: int) -> None:
        """Begin to count anew: `doing` ("decoding") is done to so many images."""
        self._doing, self._done, self._total = doing, 0, total

    def advance(self, count: int) -> None:
        """Count images that are done."""
        self._done += count
        now_s = time.monotonic()
        if now_s - self._told_s < TOLD_EVERY_S:
            return
        self._told_s = now_s
        if self._part is not None:
            os.utime(self._part)
        self._tell(f"{self._doing} the images of {self._what}: {self._done:,} of {self._total:,}")
