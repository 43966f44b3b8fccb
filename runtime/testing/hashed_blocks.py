"""Blocks that hold one number in place of weights, for runs whose result tells what was used.

Owns what such a run is and what it computes. Each computation hashes into the number everything
that it used, so the last numbers equal those of a plain loop only if every batch was trained once
by every block, in order, on the right messages.
"""

from dataclasses import dataclass, replace

from runtime.core.plan import Free, Side, Stream, Window, WorkerPlan

MESSAGE_BYTES = 10


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a run is. Every window holds `size` messages, or lag + 1 of the downward ties.

    `spare` is the room to retain messages beyond the least that works; None sets no bound.
    `absent` holds the (worker, step) whose ties are not finite.
    """

    num_workers: int
    num_steps: int
    lag: int
    tied: bool
    size: int
    slack_bytes: int = 0  # beyond the least
    spare: int | None = None
    snapshot_every: int = 0
    checkpoint_every: int = 0
    absent: frozenset[tuple[int, int]] = frozenset()
    free: Free | None = None  # ties without a lag; a plain loop knows nothing of such runs

    def plan(self, k: int) -> WorkerPlan:
        """Worker k's part."""
        streams = list(Stream) if self.tied else [Stream.ACTIVATION]
        has = {Side.BELOW: k > 0, Side.ABOVE: k + 1 < self.num_workers}
        plan = WorkerPlan(
            num_steps=self.num_steps,
            lag=self.lag,
            free=self.free,
            incoming={s: self.window(s) for s in streams if has[s.source]},
            outgoing={s: self.window(s) for s in streams if has[s.target]},
            snapshot_every=self.snapshot_every,
            checkpoint_every=self.checkpoint_every,
        )
        if self.spare is None:
            return plan
        incoming, outgoing = (
            {
                stream: replace(window, max_retained=plan.min_retained(stream) + self.spare)
                for stream, window in windows.items()
            }
            for windows in (plan.incoming, plan.outgoing)
        )
        return replace(plan, incoming=incoming, outgoing=outgoing)

    def window(self, stream: Stream) -> Window:
        """The window of a stream on every edge."""
        is_wide = stream is Stream.TIE_DOWN
        size = max(2, self.lag + 1) if is_wide else self.size
        if self.free is not None and stream is not Stream.ACTIVATION:
            is_wide, size = True, max(2, self.free.max_staleness + 1)
        return Window(
            max_messages=size,
            max_bytes=(size if is_wide else 2) * MESSAGE_BYTES + self.slack_bytes,
            message_bytes=MESSAGE_BYTES,
        )


def reference(case: Case, end: int | None = None) -> list[int]:
    """The same training up to step `end` as a plain loop; returns each worker's last number."""
    weights = list(range(case.num_workers))
    downs: list[list[int | None]] = []  # by step, then by worker
    for step in range(case.num_steps if end is None else end):
        activation: int | None = None
        ups: list[int | None] = []
        down: list[int | None] = []
        for k in range(case.num_workers):
            inputs, activation = activation, mix(weights[k], activation)
            weights[k] = mix(weights[k], step, inputs)
            absent = (k, step) in case.absent
            ups.append(None if absent else mix(weights[k], 1))
            down.append(None if absent else mix(weights[k], 2))
        downs.append(down)
        for k in range(case.num_workers):
            below = ups[k - 1] if case.tied and k > 0 else None
            late = step - case.lag
            has_above = case.tied and k + 1 < case.num_workers and late >= 0
            above = downs[late][k + 1] if has_above else None
            weights[k] = mix(weights[k], step, below, above)
    return weights


def mix(*values: int | None) -> int:
    """Hash numbers, alike in every process."""
    return hash(tuple(-7 if value is None else value for value in values))


@dataclass(frozen=True)
class HashedTies:
    """What an update offers the neighbours."""

    up: int | None
    down: int | None
    absent: bool


class HashedBlock:
    """One block of a case, for the simulation; its messages are numbers."""

    def __init__(self, case: Case, k: int, weights: int | None = None) -> None:
        self.weights = k if weights is None else weights
        self._case = case
        self._k = k
        self._inputs: int | None = None  # of the step under way

    def forward(self, step: int, incoming: int | None) -> int:
        """Make the activation."""
        del step
        self._inputs = incoming
        return mix(self.weights, incoming)

    def update(self, step: int) -> HashedTies:
        """Take the own step; make the ties."""
        self.weights = mix(self.weights, step, self._inputs)
        if (self._k, step) in self._case.absent:
            return HashedTies(None, None, absent=True)
        return HashedTies(mix(self.weights, 1), mix(self.weights, 2), absent=False)

    def apply(self, step: int, from_below: int | None, from_above: int | None) -> None:
        """Apply the partners' ties."""
        self.weights = mix(self.weights, step, from_below, from_above)
