"""What one worker has made for its neighbours, on its way to the links.

Owns what is kept of it (see keeping.py and runtime.state.retention), and what waits until it is.
What is made and sent or repeated is the core's choice.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from runtime.block import Payload, TensorSpec
from runtime.core.messages import Computed
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.links.message import DataMessage
from runtime.state.retention import Retention
from runtime.worker.keeping import Keeping

Made = Mapping[Stream, Payload | None]


class Outbox:
    """`keep` and `save` are called by whoever decides, and `fill`, `take_ready` and
    `take_saved` by the loop.

    `wake` is called when there may be something to take.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        retention: Retention,
        specs: Mapping[Stream, tuple[TensorSpec, ...]],
        wake: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._retention = retention
        self._specs = specs
        self._keeping = Keeping(retention, specs, wake)
        self._awaited: dict[tuple[Stream, int], tuple[Side, DataMessage]] = {}

    def keep(self, event: Computed, made: Made) -> None:
        """Keep what the block made, until its receiver will never ask for it again."""
        for stream, payload in made.items():
            specs = self._specs.get(stream)
            if specs is None:
                continue
            if event.absent:
                self._keeping.keep(stream, event.step, None)
                continue
            assert payload is not None, f"no {stream.value} was made at step {event.step}"
            for spec, tensor in zip(specs, payload, strict=True):
                spec.check(tensor)
            self._keeping.keep(stream, event.step, payload)

    def fill(self, side: Side, message: DataMessage) -> DataMessage | None:
        """A message as it is to be sent. None where that must wait: `take_ready` gives it then."""
        key = stream, step = message.stream, message.step
        self._awaited.pop(key, None)  # it may be for a life that is no more
        if self._must_wait(stream, step):
            self._awaited[key] = side, message
            return None
        if message.absent:
            return message
        payload = self._retention.get(stream, step)
        return replace(message, payload=payload, checksum=self._retention.checksum(stream, step))

    def take_ready(self) -> list[tuple[Side, DataMessage]]:
        """What has waited and is to be filled now, in the order of each stream."""
        if not self._keeping.take_kept():
            return []
        ordered = sorted(self._awaited, key=lambda key: key[1])
        return [self._awaited.pop(key) for key in ordered if not self._must_wait(*key)]

    def save(self, step: int, save: Callable[[], None]) -> None:
        """Let `save` make the state before `step` safe when all that was made is kept."""
        self._keeping.save(step, save)

    def take_saved(self) -> list[int]:
        """The steps before which a state has become safe, in order."""
        return self._keeping.take_saved()

    def close(self) -> None:
        """End what copies."""
        self._keeping.close()

    def _must_wait(self, stream: Stream, step: int) -> bool:
        """Whether it is not kept, or one before it waits, which a mark must not overtake."""
        return self._keeping.is_pending(stream, step) or any(
            other is stream and before < step for other, before in self._awaited
        )
