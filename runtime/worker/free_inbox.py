"""What a worker keeps of messages beyond their release, where ties are free.

Owns the copies: a received tensor may be the sender's memory, and is valid only until it is
released. Of weights it is the newest, of gradients all that were not used yet.
Which are used, and when, is the core's.
"""

import functools
from collections.abc import Callable
from typing import Any

from runtime.core.plan import Stream, WorkerPlan

Payload = Any  # tensors, or what a simulation has in their place


def _copy(payload: Payload) -> Payload:
    return tuple(tensor.clone() for tensor in payload)


def _add(one: Payload, other: Payload) -> Payload:
    return tuple(a + b for a, b in zip(one, other, strict=True))


class FreeInbox:
    """The copies of one life of a worker; without free ties it keeps nothing."""

    def __init__(
        self,
        plan: WorkerPlan,
        *,
        copy: Callable[[Payload], Payload] = _copy,
        add: Callable[[Payload, Payload], Payload] = _add,
    ) -> None:
        self._plan = plan
        self._copy = copy
        self._add = add
        self._ties: dict[Stream, dict[int, Payload]] = {}

    def arrived(self, stream: Stream, step: int, payload: Payload) -> None:
        """Copy a tie that has arrived, which is released at once; leave all else alone."""
        if not self._plan.is_free(stream):
            return
        assert self._plan.free is not None
        here = {} if self._plan.free.keeps_newest else self._ties.get(stream, {})
        self._ties[stream] = {**here, step: self._copy(payload)}

    def take(self, tie: Stream, step: int) -> Payload:
        """What a step uses of a tie, gradients summed in their order; these are gone then."""
        free = self._plan.free
        assert free is not None
        here = self._ties[tie] if free.keeps_newest else self._ties.pop(tie)
        used = [payload for message, payload in here.items() if free.allows(step, message)]
        return functools.reduce(self._add, used)
