"""Standard output and error that can't end a run: a closed pipe, a full disk, a lost terminal.

Owns what becomes of text that can't be written. Knows nothing of what is printed.
"""

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO, cast

PATIENCE_S = 10.0  # with a reader that has stopped, once
CHUNK_CHARACTERS = 1000  # a pipe that is ready takes so many without a wait


class FailsafeStream(io.TextIOBase):
    """Text to `stream`, whose failures stay here: what its encoding lacks is replaced, and after a
    failure the rest is dropped. `note` is told of that, once."""

    def __init__(self, stream: TextIO, note: Callable[[str], object]) -> None:
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors="replace")
        self._stream = stream
        self._note = note
        self._is_given_up = False
        self._patience_s = PATIENCE_S

    def write(self, text: str) -> int:
        for begin in range(0, len(text), CHUNK_CHARACTERS):
            self._try(partial(self._write, text[begin : begin + CHUNK_CHARACTERS]))
        return len(text)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self._is_given_up or not self._has_room():
            return
        try:
            act()
        except BlockingIOError:
            pass  # the reader of a pipe that doesn't block is slow: this text alone is lost
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._give_up(error)

    def _has_room(self) -> bool:
        """Whether its reader takes something, now or soon: one that has stopped (a pager, Ctrl-S)
        misses text, and holds nobody up."""
        try:
            _, ready, _ = select.select([], [self._stream.fileno()], [], self._patience_s)
        except (OSError, ValueError):  # it has no file, or is closed: the attempt will tell
            return True
        self._patience_s = PATIENCE_S if ready else 0.0
        return bool(ready)

    def _give_up(self, error: Exception) -> None:
        self._is_given_up = True
        with contextlib.suppress(OSError, ValueError):  # what it still holds goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        name = getattr(self._stream, "name", "the output")
        self._note(f"{name} can't be written to any more ({reason}); the run goes on without it")

    def isatty(self) -> bool:
        return not self._is_given_up and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own, such as `buffer` or `reconfigure`; what fails there fails
        whoever asks for it."""
        return getattr(self._stream, name)


def protect_output(note: Callable[[str], object] | None = None) -> None:
    """Let nothing that this process prints end it; `note` is told when a stream is given up, by
    default on standard error."""
    note = note or (lambda text: print(text, file=sys.stderr, flush=True))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:  # as it is in a process without a terminal, on some systems
            setattr(sys, name, cast(TextIO, FailsafeStream(stream, note)))
