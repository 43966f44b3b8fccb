"""Tensors that the kernel carries between workers of one host, by their I/O threads.

Owns who waits for whom: each worker has one such thread, for both its edges and both directions,
and a transfer takes those of its two ends until it is done. (Real ones take turns among sockets,
which comes to the same in the long run.)
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.scale.host import Happen, Host, Thread


@dataclass(eq=False)
class Transfer:
    """Tensors under way from one worker to another, and what happens when they have arrived."""

    ends: tuple[int, int]
    duration_s: float
    arrived: list[Happen]
    is_begun: bool = False


class Transfers:
    """All transfers; `host(k)` is the host of worker k."""

    def __init__(self, host: Callable[[int], Host]) -> None:
        self._host = host
        self._lines: dict[int, deque[Transfer]] = defaultdict(deque)  # of each worker's thread

    def carry(self, k: int, to: int, duration_s: float, then: Happen) -> None:
        """Let something happen when what worker k sends now is with worker `to`: tensors behind all
        that waits for either thread, a small one (no duration) behind the tensors on its way."""
        if duration_s == 0.0:
            before = [t for t in self._lines[k] if t.ends == (k, to)]
            if before:
                before[-1].arrived.append(then)
            else:
                then()
            return
        transfer = Transfer(ends=(k, to), duration_s=duration_s, arrived=[then])
        for worker in transfer.ends:
            self._lines[worker].append(transfer)
        self._begin(transfer)

    def _begin(self, transfer: Transfer) -> None:
        """Begin a transfer if both threads have come to it."""
        k, to = transfer.ends
        if transfer.is_begun or not (self._lines[k][0] is self._lines[to][0] is transfer):
            return
        transfer.is_begun = True
        Thread(self._host(k)).add(transfer.duration_s, lambda: self._end(transfer))

    def _end(self, transfer: Transfer) -> None:
        lines = [self._lines[worker] for worker in transfer.ends]
        for line in lines:
            line.popleft()
        for happen in transfer.arrived:
            happen()
        for line in lines:
            if line:
                self._begin(line[0])
