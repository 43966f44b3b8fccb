"""What has arrived for one worker and is not used up, and what each computation uses of it.

Owns the payloads from their arrival to their release; where ties are free, what is copied stays
longer (see free_inbox.py). Which messages are used is the core's choice. What a computation
uses is found when it is decided: a gradient that arrives after that belongs to the next step.
"""

from typing import NamedTuple

from runtime.block import Payload
from runtime.core.messages import Compute, Phase
from runtime.core.plan import Stream, WorkerPlan
from runtime.worker.free_inbox import FreeInbox


class Ready(NamedTuple):
    """A computation, and the payloads that it uses; None: there is none, or it is left out."""

    action: Compute
    activation: Payload | None = None
    from_below: Payload | None = None
    from_above: Payload | None = None


class Inbox:
    """The payloads of one life of a worker. Whoever calls decides, or is the driver's loop."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._here: dict[tuple[Stream, int], Payload] = {}
        self._free = FreeInbox(plan)

    @property
    def num_activations(self) -> int:
        """Activations that are here and not yet used."""
        return sum(1 for stream, _ in self._here if stream is Stream.ACTIVATION)

    def keep(self, stream: Stream, step: int, payload: Payload) -> None:
        """Keep what has arrived; () where it is absent."""
        self._here[stream, step] = payload
        self._free.arrived(stream, step, payload)

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
        payload: Payload = self._free.take(stream, step)
        return payload
