"""Phases that say how far they are are printed now and then, and all are passed on."""

import pytest

from launch import shown_progress
from launch.shown_progress import showing


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(shown_progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_printed_after_2_s_and_then_every_5_s(clock, capsys):
    heard = []
    tell = showing("plan", lambda phase, **_: heard.append(phase))
    tell("loading the data (folder:pets)")
    for second in range(10):
        clock[0] = 100.0 + second
        tell(f"decoding the images of pets: {1000 * second:,} of 12,345")
    tell("building the network")
    assert len(heard) == 12
    assert capsys.readouterr().err.splitlines() == [
        "plan: decoding the images of pets: 2,000 of 12,345",
        "plan: decoding the images of pets: 7,000 of 12,345",
    ]


def test_what_is_done_at_once_is_not_printed(clock, capsys):
    tell = showing("plan")
    tell("loading the data (digits)")
    tell("decoding the images of pets: 5 of 5")
    clock[0] += 60
    tell("building the network", takes_s=3.0)
    assert capsys.readouterr().err == ""
