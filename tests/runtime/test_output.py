"""What is printed can be lost, replaced or given up; it never ends the process that prints it."""

import io
import os
from pathlib import Path

import pytest

from runtime.output import FailsafeStream


@pytest.fixture
def pipe():
    """A pipe's two ends; the test may close the first."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        yield reading, stream


def test_closed_pipe_is_noted_once_and_the_rest_dropped(pipe):
    """`| head -2` ended a run without weights or summary."""
    notes: list[str] = []
    reading, stream = pipe
    output = FailsafeStream(stream, notes.append)
    os.close(reading)
    for line in ("one\n", "two\n", "three\n"):
        assert output.write(line) == len(line)
        output.flush()
    (note,) = notes
    assert note.endswith("can't be written to any more (Broken pipe); the run goes on without it")


def test_broken_stream_does_not_fail_at_the_end_by_what_it_holds(pipe):
    reading, stream = pipe
    output = FailsafeStream(stream, str)
    os.close(reading)
    output.write("held\n")
    output.flush()
    stream.close()  # as the interpreter does; what it held goes nowhere


def test_full_disk_is_noted(tmp_path):
    notes: list[str] = []
    with Path("/dev/full").open("w") as stream:
        output = FailsafeStream(stream, notes.append)
        output.write("x" * 100_000)
        output.flush()
    assert "No space left on device" in notes[0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_encoding_lacks_are_replaced(encoding):
    """With PYTHONIOENCODING=latin-1 a trained run ended with "can't encode '\\u2013'"."""
    written = io.BytesIO()
    output = FailsafeStream(io.TextIOWrapper(written, encoding=encoding), pytest.fail)
    output.write("left \u2013, step 3\n")
    output.flush()
    assert written.getvalue() == b"left ?, step 3\n"
    assert output.encoding == encoding


def test_slow_reader_of_a_nonblocking_pipe_costs_that_text_only(pipe, monkeypatch):
    monkeypatch.setattr("runtime.output.PATIENCE_S", 1.0)
    reading, stream = pipe
    os.set_blocking(stream.fileno(), False)
    output = FailsafeStream(stream, pytest.fail)
    output.write("x" * 200_000)
    output.flush()
    while os.read(reading, 65_536):
        if os.set_blocking(reading, False) is None and not _has_more(reading):
            break
    output.write("and on\n")
    output.flush()
    assert os.read(reading, 1 << 20).endswith(b"and on\n")
    os.close(reading)


def _has_more(reading: int) -> bool:
    try:
        return bool(os.read(reading, 1 << 20))
    except BlockingIOError:
        return False


def test_user_code_finds_what_a_stream_has():
    written = io.BytesIO()
    output = FailsafeStream(io.TextIOWrapper(written, encoding="utf-8"), pytest.fail)
    output.reconfigure(line_buffering=True)
    output.buffer.write(b"bytes\n")
    output.write("text\n")
    assert written.getvalue() == b"bytes\ntext\n"
    assert not hasattr(output, "no_such_thing")


def test_stream_that_was_closed_is_given_up():
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    notes: list[str] = []
    output = FailsafeStream(closed, notes.append)
    output.write("text")
    assert len(notes) == 1
    assert not output.isatty()
