"""How old the free ties were that a worker's steps used.

Owns the counts. They belong to the state that a snapshot holds, so that they speak of the steps
that made the result, and not of those that died with a generation.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.core.plan import Stream

TIES = (Stream.TIE_UP, Stream.TIE_DOWN)


@dataclass
class TieStats:
    """`stale` counts the ties that were too old to be used when a step could have used them.

    `staleness` says for each tie how many messages were used that many steps after the step they
    were made at; it is negative if the neighbour is ahead. `latest` is the last one noted.
    """

    stale: int = 0
    staleness: dict[Stream, Counter[int]] = field(
        default_factory=lambda: {tie: Counter() for tie in TIES}
    )
    latest: int = 0

    def note(self, tie: Stream, staleness: int) -> None:
        """A message of that many steps was used."""
        self.staleness[tie][staleness] += 1
        self.latest = staleness

    def copy(self) -> "TieStats":
        """One that does not change when this does."""
        return TieStats.from_rows(self.as_rows())

    def as_rows(self) -> list[list[int]]:
        """All counts as rows of three numbers, as a snapshot holds them."""
        rows = [[-1, self.stale, 0]]
        for index, tie in enumerate(TIES):
            rows += [[index, steps, count] for steps, count in self.staleness[tie].items()]
        return rows

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> "TieStats":
        """Read back what `as_rows` gave."""
        stats = cls()
        for index, steps, count in rows:
            if index < 0:
                stats.stale = steps
            else:
                stats.staleness[TIES[index]][steps] = count
        return stats
