"""How learning code says what it is doing, to whoever wants to know.

Owns the type only: models know nothing of the processes that listen.
"""

from typing import Protocol


class Tell(Protocol):
    """Takes the name of a phase that begins or goes on, and what it takes at most, in seconds."""

    def __call__(self, phase: str, *, takes_s: float = 0.0) -> None: ...


def unheard(phase: str, *, takes_s: float = 0.0) -> None:
    """For a caller who has no one to tell."""
    del phase, takes_s
