"""What has arrived for one worker and is not used up, and what each computation uses of it.

Owns the payloads from their arrival to their release; of free ties, copies that stay longer.
Which messages are used is the core's choice. What a computation uses is found when it is issued:
a gradient that arrives after that belongs to the next step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from runtime.block import Payload
from runtime.core.messages import Compute, Phase
from runtime.core.plan import Stream, WorkerPlan

Tensors = Any  # a Payload, or what a simulation has in its place


class Ready(NamedTuple):
    """A computation, and the payloads that it uses; None: there is none, or it is left out."""

    action: Compute
    activation: Payload | None = None
    from_below: Payload | None = None
    from_above: Payload | None = None


class Inbox:
    """The payloads of one generation of a worker. It is called under the driver's lock, but for
    `release`, which is the loop's."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._here: dict[tuple[Stream, int], Payload] = {}
        self._free_ties = FreeTies(plan)

    @property
    def num_activations(self) -> int:
        """Activations that are here and not yet used."""
        return sum(1 for stream, _ in self._here if stream is Stream.ACTIVATION)

    def store(self, stream: Stream, step: int, payload: Payload) -> None:
        """Store what has arrived; () if it is absent."""
        self._here[stream, step] = payload
        self._free_ties.arrived(stream, step, payload)

    def find(self, action: Compute) -> Ready:
        """What a computation uses; gradients of free ties are gone then."""
        match action.phase:
            case Phase.FORWARD:
                return Ready(action, activation=self._here.get((Stream.ACTIVATION, action.step)))
            case Phase.UPDATE:
                return Ready(action)
            case Phase.APPLY:
                return Ready(
                    action,
                    from_below=self._tie(Stream.TIE_UP, action.from_below, action.step),
                    from_above=self._tie(Stream.TIE_DOWN, action.from_above, action.step),
                )

    def release(self, stream: Stream, step: int) -> Payload:
        """Forget a message that is used up, and return it."""
        return self._here.pop((stream, step))

    def _tie(self, stream: Stream, message: int | None, step: int) -> Payload | None:
        """What a step uses of a tie, given the newest message that it uses."""
        if message is None:
            return None
        if not self._plan.is_free(stream):
            return self._here[stream, message]
        payload: Payload = self._free_ties.take(stream, step)
        return payload


def _copy(payload: Tensors) -> Tensors:
    return tuple(tensor.clone() for tensor in payload)


def _joined(one: Tensors, other: Tensors) -> Tensors:
    return (*one, *other)


class FreeTies:
    """Copies of ties beyond their release, if ties are free: a received tensor may be the sender's
    memory, and is valid only until then. Of weights the newest, of gradients all that were not
    used yet, joined in their order: only the block knows how to add them. With fixed ties it has
    none."""

    def __init__(
        self,
        plan: WorkerPlan,
        *,
        copy: Callable[[Tensors], Tensors] = _copy,
        join: Callable[[Tensors, Tensors], Tensors] = _joined,
    ) -> None:
        self._plan = plan
        self._copy = copy
        self._join = join
        self._ties: dict[Stream, dict[int, Tensors]] = {}

    def arrived(self, stream: Stream, step: int, payload: Tensors) -> None:
        """Copy a tie that has arrived, which is released at once; leave all else alone."""
        if not self._plan.is_free(stream):
            return
        assert self._plan.free is not None
        here = {} if self._plan.free.keeps_newest else self._ties.get(stream, {})
        self._ties[stream] = {**here, step: self._copy(payload)}

    def take(self, tie: Stream, step: int) -> Tensors:
        """What a step uses of a tie, gradients joined in their order; these are gone then."""
        free = self._plan.free
        assert free is not None
        here = self._ties[tie] if free.keeps_newest else self._ties.pop(tie)
        used = [payload for message, payload in here.items() if free.allows(step, message)]
        return functools.reduce(self._join, used)
