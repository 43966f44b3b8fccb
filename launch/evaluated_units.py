"""Which units' features are evaluated: every unit's, those with which a home ends, or the last's.

Owns the choice, and which one is made if none is given. Knows nothing of how they are measured.
"""

from typing import Literal

from launch.planning.partition import Partition

Units = Literal["blocks", "units", "last"]

MOST_FITTED = 100_000  # training images x units for which every unit is evaluated unasked


def evaluated_units(
    partition: Partition, *, num_train: int, choice: Units | None = None
) -> list[int]:
    """The indices of the units to evaluate, lowest first; the network's last one is among them.

    Without a choice it is every unit if that is quick, and else those with which a home ends.
    """
    if choice is None:
        choice = "units" if partition.num_units * num_train <= MOST_FITTED else "blocks"
    match choice:
        case "units":
            return list(range(partition.num_units))
        case "blocks":
            return [home[-1] for home in partition.homes]
        case "last":
            return [partition.num_units - 1]
