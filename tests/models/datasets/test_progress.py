"""Progress is told every second, and whoever waits for a part sees it by the part's time."""

import os

import pytest

from models.datasets import progress as module
from models.datasets.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_told_every_second(clock):
    told = []
    progress = Progress("pets", lambda phase, **_: told.append(phase))
    progress.begin("looking at", 2000)
    for _ in range(10):
        progress.advance(100)
        clock[0] += 0.4
    progress.begin("decoding", 50)
    clock[0] += 1
    progress.advance(7)
    assert told == [
        "looking at the images of pets: 100 of 2,000",
        "looking at the images of pets: 400 of 2,000",
        "looking at the images of pets: 700 of 2,000",
        "looking at the images of pets: 1,000 of 2,000",
        "decoding the images of pets: 7 of 50",
    ]


def test_part_is_touched_when_progress_is_told(clock, tmp_path):
    part = tmp_path / "part"
    part.touch()
    os.utime(part, (1, 1))
    progress = Progress("pets", lambda phase, **_: None, part)
    progress.advance(1)
    assert part.stat().st_mtime > 1
