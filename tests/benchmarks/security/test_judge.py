"""The judge: a run that is as if nobody had been there passes, and each flaw is named."""

import json

import pytest

from benchmarks.harness import ROOT
from benchmarks.security.catalogue import ALL_SORTS, ATTACKS
from benchmarks.security.judge import judge, why_not_made

from .runs import DID, seen

BY_NAME = {attack.name: attack for attack in ATTACKS}
RECORDS = ROOT / "benchmarks" / "results" / "security.jsonl"
TOLD_SINCE = {"finished", "squatted", "silent-peer", "unfinished"}
"""Attacks whose recorded reports do not count yet what they did."""


def verdict(run, *, attack="flood", num_frames=10):
    return judge(BY_NAME[attack], run, seen(), num_frames=num_frames)


def wrong(run, **asked):
    return verdict(run, **asked)["wrong"]


def not_made(run, **asked):
    return verdict(run, **asked)["not_made"]


def test_run_that_went_as_if_nobody_were_there_is_held_off():
    assert wrong(seen()) == []
    assert not_made(seen()) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"exit_code": 1}, "the job ended with exit code 1"),
        ({"exit_code": None, "wall_s": 40.4}, "the job had not ended after 40 s"),
        (
            {"summary": {"weights_sha256": "b" * 64}},
            "the job ended well, with other weights",
        ),
        ({"summary": {}}, "the job ended well, with other weights"),
        ({"replaced": 2}, "2 processes were replaced that nobody killed"),
        ({"exposed": ["0.0.0.0:80"]}, "it listens for other hosts at 0.0.0.0:80"),
        ({"samples_per_s": None}, "not shown: the rate beside the undisturbed one"),
        ({"samples_per_s": 890.0}, "the rate fell to 0.89 of the undisturbed one"),
        (
            {"peaks": seen().peaks | {"worker 0": 365 << 20}},
            f"the memory of worker 0 grew by {(65 << 20) / 1e6:.0f} MB",
        ),
        ({"report": {"worked": ["it read all"]}}, "it read all"),
    ],
)
def test_flaw_is_named(changes, named):
    assert wrong(seen(**changes)) == [named]


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (
            {"error": "Traceback\n  ...\nOSError: refused\n"},
            "the attack was not carried out: OSError: refused",
        ),
        ({"not_made": "to listen takes root"}, "not made: to listen takes root"),
        ({"frames": 0}, "the attack was not carried out: it tells of no frames"),
        ({}, "the attack was not carried out: it tells of no frames"),
    ],
)
def test_attack_that_did_nothing_is_not_held_off(report, why):
    """A stranger that sent nothing, replaced nothing, or might not listen left the run as it was,
    and for that was called held off; only "million" had to tell of what it sent."""
    assert not_made(seen(report=report)) == [why]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_each_attack_is_to_tell_what_it_did(attack):
    run = seen(killed=len(attack.kills), report=DID)
    assert not_made(run, attack=attack.name) == []
    idle = seen(killed=len(attack.kills), report=DID | {attack.proof: 0})
    assert not_made(idle, attack=attack.name) != []


def test_what_is_listed_counts_as_it_is_long():
    assert not_made(seen(report={"tried": ["/tmp/run"]}), attack="files") == []
    assert not_made(seen(report={"tried": []}), attack="files") != []


def reasons(attack, record):
    return why_not_made(attack, record["report"], killed=record["killed"], num_frames=1_000_000)


def test_recorded_attacks_were_made():
    records = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    recorded = {record["attack"]: record for record in records if "attack" in record}
    assert set(recorded) == set(BY_NAME)
    unproven = {name for name, record in recorded.items() if any(reasons(BY_NAME[name], record))}
    assert unproven == TOLD_SINCE
    for name in TOLD_SINCE:
        assert BY_NAME[name].proof not in recorded[name]["report"]


def test_memory_that_nobody_has_seen_is_not_shown():
    """A run of whose processes no peak was seen had no growth either, and so was held off."""
    roles = ("coordinator", "worker 0", "worker 1", "worker 2")
    assert wrong(seen(peaks={})) == [f"not shown: the memory of {role}" for role in roles]
    unseen = seen(killed=1, replaced=1, peaks={})
    assert "not shown: the memory of worker 1" not in wrong(unseen, attack="announcement-model")
    assert "not shown: the memory of worker 0" in wrong(unseen, attack="announcement-model")


def test_restart_that_left_no_process_to_be_seen_counts_too():
    summary = {**seen().summary, "restarts": [{"block": 1}]}
    assert wrong(seen(summary=summary)) == ["1 processes were replaced that nobody killed"]


def test_worker_that_the_benchmark_kills_may_be_replaced():
    killed = seen(replaced=1, killed=1)
    assert wrong(killed, attack="announcement-model") == []
    assert wrong(seen(replaced=2, killed=1), attack="announcement-model") != []
    unharmed = not_made(seen(), attack="announcement-model")
    assert unharmed == ["the attack was not carried out: no worker was killed"]


def test_rate_is_judged_where_the_attack_is_about_it():
    slow = seen(samples_per_s=500.0)
    assert wrong(slow, attack="result-null") == []
    assert len(wrong(slow, attack="silent-peer")) == 1


def test_million_is_to_be_sent_whole():
    sent = seen(report={"frames": 10})
    assert not_made(sent, attack=ALL_SORTS, num_frames=10) == []
    assert not_made(sent, attack=ALL_SORTS, num_frames=1000) == [
        "the attack was not carried out: 10 of 1,000 frames were sent"
    ]


def test_verdict_has_the_figures():
    summary = {**seen().summary, "refused": 17}
    peaks = {"worker 0": 310 << 20, "worker 9": 1}  # which is none of the job's
    run = seen(samples_per_s=950.0, summary=summary, peaks=peaks)
    found = judge(BY_NAME["flood"], run, seen(), num_frames=1)
    assert (found["rate_ratio"], found["refused"]) == (0.95, 17)
    assert found["growth_bytes"] == {"worker 0": 10 << 20}, "what has no reference is not judged"
    assert judge(BY_NAME["flood"], seen(), seen(), num_frames=1)["refused"] is None
