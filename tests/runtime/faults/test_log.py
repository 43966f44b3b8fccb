"""A fault fires once in a run, whatever dies of it."""

import json
import os

from runtime.faults.log import FaultLog


def test_fault_fires_once_in_a_process(tmp_path):
    log = FaultLog(tmp_path, generation=0)
    assert not log.has_fired("kill:1@40")
    assert log.claim("kill:1@40")
    assert log.has_fired("kill:1@40")
    assert not log.claim("kill:1@40")
    assert log.claim("kill:1@41")


def test_later_generation_knows_what_has_fired(tmp_path):
    assert FaultLog(tmp_path, generation=0).claim("kill:1@40")
    later = FaultLog(tmp_path, generation=1)
    assert later.has_fired("kill:1@40")
    assert not later.claim("kill:1@40")


def test_log_says_what_fired_when_and_on_which_worker(tmp_path):
    for generation in range(2):
        FaultLog(tmp_path, generation=generation).claim(f"kill:1@{generation}")
    rows = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [(row["fault"], row["generation"]) for row in rows] == [("kill:1@0", 0), ("kill:1@1", 1)]
    assert all(row["pid"] == os.getpid() for row in rows)
    assert rows[0]["t"] <= rows[1]["t"]


def test_processes_add_to_the_same_file(tmp_path):
    first, second = (FaultLog(tmp_path, generation=0) for _ in range(2))
    assert first.claim("drop:0-1@3")
    assert second.claim("drop:1-0@3")
    assert FaultLog(tmp_path, generation=0).has_fired("drop:0-1@3")
    assert FaultLog(tmp_path, generation=0).has_fired("drop:1-0@3")


def test_log_is_not_written_if_nothing_fires(tmp_path):
    FaultLog(tmp_path, generation=0).has_fired("kill:1@40")
    assert list(tmp_path.iterdir()) == []
