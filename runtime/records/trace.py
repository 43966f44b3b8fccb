"""A run's timeline, in the Chrome trace event format that Perfetto (ui.perfetto.dev) opens.

Owns what becomes a slice, an arrow, a counter or an instant, and the files: one a worker, which
its generations append to, and trace.json, which joins them. A line is an event, so that a worker
that is killed spoils none but its last.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime.core.plan import Stream
from runtime.core.state import State

log = logging.getLogger(__name__)

FLUSH_AT = 2000  # events
WORK, SENDING = 0, 1  # the two threads of a worker's track: what it does, and what it sends
NAMES = {
    State.LINKING: "linking",
    State.WAIT_CREDIT: "wait-credit",
    State.WAIT_INPUT: "wait-input",
    State.FORWARD: "forward",
    State.UPDATE: "update",
    State.WAIT_TIE: "wait-tie",
    State.APPLY: "apply",
    State.DRAINING: "draining",
}
SHORTEST_US = 1.0  # a state that is only passed through is no slice


class Trace:
    """One worker's part of a timeline; nothing is written if `path` is None. Times are of
    time.monotonic.

    Events may come from any thread; `flush` and `counters`, which writes what has piled up, are
    the loop's.
    """

    def __init__(self, path: Path | None, block_index: int, *, name: str = "") -> None:
        self._block_index = block_index
        self._path = path
        self._offset_s = time.time() - time.monotonic()
        # What a generation before was writing may lack its end.
        self._lines = ["\n"] if path is not None and path.exists() else []
        self._name("process_name", WORK, f"worker {block_index}: {name}")
        self._name("thread_name", WORK, "work")
        self._name("thread_name", SENDING, "send")

    def state(self, state: State, step: int, began_s: float, ended_s: float) -> None:
        """The worker was in a state; a batch's arrow runs from forward to forward."""
        if state not in NAMES:
            return
        self._slice(NAMES[state], WORK, began_s, ended_s, step=step)
        if state is State.FORWARD:
            kind = "s" if self._block_index == 0 else "t"
            middle_s = (began_s + ended_s) / 2
            self._event(kind, "batch", middle_s, cat="batch", id=step, tid=WORK)

    def snapshot(self, step: int, began_s: float, ended_s: float) -> None:
        """A state was copied, to be saved."""
        self._slice("snapshot", WORK, began_s, ended_s, step=step)

    def sent(self, stream: Stream, step: int, began_s: float, ended_s: float) -> None:
        """A message was handed to its link."""
        self._slice(f"send {stream.value}", SENDING, began_s, ended_s, step=step)

    def counters(self, **values: float) -> None:
        """Counters as they are now."""
        for name, value in values.items():
            text = f"{name} of worker {self._block_index}"
            self._event("C", text, time.monotonic(), args={name: value})
        if len(self._lines) >= FLUSH_AT:
            self.flush()

    def instant(self, name: str, **facts: Any) -> None:
        """Something happened now."""
        self._event("i", name, time.monotonic(), tid=WORK, s="p", args=facts)

    def flush(self) -> None:
        """Append what was noted to the worker's file. If it can't be written, that is logged once,
        and no more is noted."""
        if self._path is None or not self._lines:
            return
        count = len(self._lines)
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a") as file:
                file.write("".join(self._lines[:count]))
        except OSError as error:
            log.warning("the timeline ends here: %s: %s", self._path, error.strerror or error)
            self._path = None
        del self._lines[:count]  # what another thread has added meanwhile stays

    def _slice(self, name: str, tid: int, began_s: float, ended_s: float, *, step: int) -> None:
        dur = (ended_s - began_s) * 1e6
        if dur >= SHORTEST_US:
            self._event("X", name, began_s, tid=tid, dur=round(dur, 1), args={"step": step})

    def _name(self, kind: str, tid: int, name: str) -> None:
        self._event("M", kind, time.monotonic(), tid=tid, args={"name": name})

    def _event(self, kind: str, name: str, at_s: float, **fields: Any) -> None:
        if self._path is None:
            return
        ts = round((self._offset_s + at_s) * 1e6, 1)
        event = {"ph": kind, "name": name, "ts": ts, "pid": self._block_index, **fields}
        self._lines.append(json.dumps(event) + "\n")


def join(parts: Iterable[Path], path: Path) -> None:
    """Write one trace of all workers' parts; a line that a death cut off is left out.

    Times begin with the first event, for a timeline in unix microseconds is hard to read.
    """
    events: list[dict[str, Any]] = []
    for part in parts:
        for line in part.read_text().splitlines():
            with contextlib.suppress(ValueError):  # cut off, or the end of the one before it
                events.append(json.loads(line))
    first = min((event["ts"] for event in events), default=0.0)
    for event in events:
        event["ts"] = round(event["ts"] - first, 1)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps({"traceEvents": events}))
    os.replace(temporary, path)
