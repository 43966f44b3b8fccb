"""Short names for the events, actions and plans that the core's tests are made of."""

from runtime.core.messages import (
    Ack,
    Compute,
    Computed,
    Data,
    Hello,
    Phase,
    Received,
    Release,
    Send,
    SnapshotRequest,
    Stop,
    Store,
    Tick,
)
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.core.worker import WorkerCore

ACTIVATION, TIE_UP, TIE_DOWN = Stream
FORWARD, UPDATE, APPLY = Phase
BELOW, ABOVE = Side


def window(max_messages: int = 2, *, retained: int | None = None) -> Window:
    return Window(
        max_messages=max_messages,
        max_bytes=10 * max_messages,
        message_bytes=10,
        max_retained=retained,
    )


def middle(
    num_steps: int = 2, *, lag: int = 1, size: int = 2, snapshot_every: int = 0
) -> WorkerPlan:
    windows = dict.fromkeys(Stream, window(size))
    return WorkerPlan(
        num_steps=num_steps,
        lag=lag,
        incoming=windows,
        outgoing=windows,
        snapshot_every=snapshot_every,
    )


def top(
    num_steps: int = 4, *, size: int = 2, snapshot_every: int = 0, checkpoint_every: int = 0
) -> WorkerPlan:
    """A receiver of activations only."""
    return WorkerPlan(
        num_steps=num_steps,
        incoming={ACTIVATION: window(size)},
        snapshot_every=snapshot_every,
        checkpoint_every=checkpoint_every,
    )


def bottom(
    num_steps: int = 4, *, size: int = 2, snapshot_every: int = 0, retained: int | None = None
) -> WorkerPlan:
    """A sender of activations only."""
    return WorkerPlan(
        num_steps=num_steps,
        outgoing={ACTIVATION: window(size, retained=retained)},
        snapshot_every=snapshot_every,
    )


def linked(
    side: Side, generation: int = 0, *, to: int | None = 0, asks: bool = False, **wants: int
) -> Received:
    """A neighbour's hello; unless said otherwise, the one that completes the handshake."""
    streams = [stream for stream in Stream if stream.target is side]
    full = {stream: wants.get(stream.value, 0) for stream in streams}
    message = Hello(generation=generation, to=to, asks=asks, wants=full)
    return Received(side=side, message=message)


def hello(side: Side, generation: int = 0, *, to: int | None, asks: bool, **wants: int) -> Send:
    streams = {stream.value: stream for stream in Stream}
    named = {streams[name]: step for name, step in wants.items()}
    return Send(side=side, message=Hello(generation=generation, to=to, asks=asks, wants=named))


def arrived(
    stream: Stream, step: int, *, generation=0, to=0, checksum=None, absent=False
) -> Received:
    message = Data(
        stream=stream,
        step=step,
        generation=generation,
        to=to,
        checksum=step if checksum is None else checksum,
        absent=absent,
    )
    return Received(side=stream.source, message=message)


def done(phase: Phase, step: int, *, absent: bool = False) -> Computed:
    return Computed(phase=phase, step=step, absent=absent)


def compute(phase: Phase, step: int, below: int | None = None, above: int | None = None) -> Compute:
    return Compute(phase=phase, step=step, from_below=below, from_above=above)


def begun(step: int) -> list[Compute]:
    """What is issued of a step at once: all that needs no ties."""
    return [compute(FORWARD, step), compute(UPDATE, step)]


def acked(stream, expected, released, durable=0, *, generation=0, to=0, resend=False) -> Received:
    message = Ack(
        stream=stream,
        generation=generation,
        to=to,
        expected=expected,
        released=released,
        durable=durable,
        resend=resend,
    )
    return Received(side=stream.target, message=message)


def ack(stream, expected, released, durable=None, *, generation=0, to=0, resend=False) -> Send:
    message = Ack(
        stream=stream,
        generation=generation,
        to=to,
        expected=expected,
        released=released,
        durable=released if durable is None else durable,
        resend=resend,
    )
    return Send(side=stream.source, message=message)


def store(stream: Stream, step: int) -> Store:
    return Store(stream=stream, step=step)


def send(stream: Stream, step: int, *, generation=0, to=0, absent: bool = False) -> Send:
    message = Data(stream=stream, step=step, generation=generation, to=to, absent=absent)
    return Send(side=stream.target, message=message)


def release(stream: Stream, step: int) -> Release:
    return Release(stream=stream, step=step)


def wanted(stream: Stream, durable: int, *, generation: int = 0, to: int = 0) -> Received:
    message = SnapshotRequest(stream=stream, generation=generation, to=to, durable=durable)
    return Received(side=stream.source, message=message)


def ask(stream: Stream, durable: int, *, generation: int = 0, to: int = 0) -> Send:
    message = SnapshotRequest(stream=stream, generation=generation, to=to, durable=durable)
    return Send(side=stream.target, message=message)


def stop_told(step: int, *, generation: int = 0, to: int = 0) -> Received:
    return Received(side=BELOW, message=Stop(generation=generation, to=to, step=step))


def tell_stop(step: int, *, generation: int = 0, to: int = 0) -> Send:
    return Send(side=ABOVE, message=Stop(generation=generation, to=to, step=step))


def started(plan: WorkerPlan, *, start_step: int = 0, generation: int = 0) -> WorkerCore:
    """A core whose neighbours have said hello, and know that it has."""
    core = WorkerCore(plan, start_step=start_step, generation=generation)
    core.start()
    for side in plan.sides():
        core.handle(linked(side, to=generation))
    return core


def repeated(core: WorkerCore) -> list:
    """What is said on a tick after which nothing was said; the one before it may be silent."""
    core.handle(Tick())
    return core.handle(Tick())


def run_step(core: WorkerCore, step: int, *, needs: tuple[Stream, ...] = ()) -> list:
    """Deliver what `step` needs and finish its phases; return all actions."""
    actions = []
    for stream in needs:
        actions += core.handle(arrived(stream, step))
    for phase in Phase:
        actions += core.handle(done(phase, step))
    return actions
