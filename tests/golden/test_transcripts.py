"""Whole conversations of simulated workers, stored as text to be read.

If the protocol changes on purpose, write them anew and read the difference:

    UPDATE_GOLDEN=1 pytest tests/golden && git diff tests/golden
"""

import os
from pathlib import Path

import pytest

from runtime.core.messages import Ack, Compute, Data, Hello, Message, Phase
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.testing.simulation import Simulation, neighbour

WINDOW = Window(max_messages=2, max_bytes=20, message_bytes=10)
UP, DOWN = (Stream.ACTIVATION, Stream.TIE_UP), (Stream.TIE_DOWN,)


class Transcript(Simulation):
    """A simulation that writes down each message as it leaves and each computation as it begins."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.lines: list[str] = []

    def _transmit(self, k: int, side: Side, message: Message, payload=None) -> None:
        self._note(f"{k} -> {neighbour(k, side)}  {_said(message)}")
        super()._transmit(k, side, message, payload)

    def _compute(self, k: int, action: Compute) -> None:
        used = [
            f"{stream.value} {step}"
            for stream, step in (
                (Stream.TIE_UP, action.from_below),
                (Stream.TIE_DOWN, action.from_above),
            )
            if step is not None
        ]
        uses = f" with {', '.join(used)}" if used else ""
        self._note(f"{k}       computes {action.phase.value} {action.step}{uses}")
        super()._compute(k, action)

    def _note(self, text: str) -> None:
        self.lines.append(f"{self.now_s:.3f}  {text}")


def _said(message: Message) -> str:
    match message:
        case Hello(generation=generation, to=to, asks=asks, wants=wants):
            wanted = (
                ", ".join(f"{stream.value} {step}" for stream, step in wants.items()) or "nothing"
            )
            known = "knows no one" if to is None else f"knows generation {to}"
            asked = ", asks" if asks else ""
            return f"hello, generation {generation}, {known}, wants {wanted}{asked}"
        case Data(stream=stream, step=step, absent=absent):
            return f"{stream.value} {step}" + (" absent" if absent else "")
        case Ack(stream=stream, expected=expected, released=released):
            return f"{stream.value}: expects {expected}, released below {released}"
    raise AssertionError(message)


def plan(k: int, num_workers: int, *, num_steps: int, lag: int, tied: bool) -> WorkerPlan:
    streams = list(Stream) if tied else [Stream.ACTIVATION]
    from_below = UP if k > 0 else ()
    from_above = DOWN if k + 1 < num_workers else ()
    to_above = UP if k + 1 < num_workers else ()
    to_below = DOWN if k > 0 else ()
    return WorkerPlan(
        num_steps=num_steps,
        lag=lag,
        incoming={s: WINDOW for s in streams if s in from_below + from_above},
        outgoing={s: WINDOW for s in streams if s in to_above + to_below},
    )


def converse(num_workers: int, *, num_steps: int, lag: int, tied: bool = True, top_s=0.02) -> str:
    """Each forward takes 20 ms and each update 40 ms, the top worker's `top_s` more; a message
    takes 10 ms up and 15 ms down."""
    durations_s = {Phase.FORWARD: 0.02, Phase.UPDATE: 0.04, Phase.APPLY: 0.0}
    simulation = Transcript(
        [plan(k, num_workers, num_steps=num_steps, lag=lag, tied=tied) for k in range(num_workers)],
        duration_s=lambda k, phase, step: (
            durations_s[phase] + (top_s if (k, phase) == (num_workers - 1, Phase.UPDATE) else 0.0)
        ),
        latency_s=lambda a, b: 0.01 if a < b else 0.015,
    )
    end_s = simulation.run()
    return "\n".join([*simulation.lines, f"{end_s:.3f}  all done", ""])


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("two_workers_lag_1", {"num_workers": 2, "num_steps": 3, "lag": 1, "top_s": 0.0}),
        ("two_workers_lag_0", {"num_workers": 2, "num_steps": 2, "lag": 0, "top_s": 0.0}),
        (
            "slow_top_without_ties",
            {"num_workers": 2, "num_steps": 4, "lag": 0, "tied": False, "top_s": 0.1},
        ),
    ],
)
def test_conversation_is_the_one_on_file(name, figures):
    path = Path(__file__).parent / f"{name}.txt"
    spoken = converse(**figures)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(spoken)
    assert spoken == path.read_text()
