"""Which computations of a worker have been issued: each once, in their order.

Owns the place in that order, and nothing of why one may be issued.
"""

from runtime.core.messages import Compute, Phase

PHASES = tuple(Phase)


class Issued:
    """The computations of one generation, from `start_step` on."""

    def __init__(self, start_step: int) -> None:
        self._next = (start_step, PHASES[0])

    def has(self, phase: Phase, step: int) -> bool:
        """Whether this computation has been issued."""
        next_step, next_phase = self._next
        return (step, PHASES.index(phase)) < (next_step, PHASES.index(next_phase))

    def note(self, action: Compute) -> Compute:
        """Note the one that follows all that were, and return it."""
        assert (action.step, action.phase) == self._next, (action, self._next)
        behind = PHASES.index(action.phase) + 1
        self._next = (action.step + behind // len(PHASES), PHASES[behind % len(PHASES)])
        return action
