"""The judge: a run that is as if nobody had been there passes, and each flaw is named."""

import pytest

from benchmarks.security.catalogue import ALL_SORTS, ATTACKS
from benchmarks.security.judge import judge

from .runs import seen

BY_NAME = {attack.name: attack for attack in ATTACKS}


def wrong(run, *, attack="flood", num_frames=10):
    return judge(BY_NAME[attack], run, seen(), num_frames=num_frames)["wrong"]


def test_run_that_went_as_if_nobody_were_there_is_held_off():
    assert wrong(seen()) == []


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
        ({"samples_per_s": 890.0}, "the rate fell to 0.89 of the undisturbed one"),
        (
            {"peaks": {"worker 0": 365 << 20}},
            f"the memory of worker 0 grew by {(65 << 20) / 1e6:.0f} MB",
        ),
        ({"report": {"worked": ["it read all"]}}, "it read all"),
        (
            {"report": {"error": "Traceback\n  ...\nOSError: refused\n"}},
            "the attack was not carried out: OSError: refused",
        ),
    ],
)
def test_flaw_is_named(changes, named):
    assert wrong(seen(**changes)) == [named]


def test_restart_that_left_no_process_to_be_seen_counts_too():
    summary = {**seen().summary, "restarts": [{"block": 1}]}
    assert wrong(seen(summary=summary)) == ["1 processes were replaced that nobody killed"]


def test_worker_that_the_benchmark_kills_may_be_replaced():
    killed = seen(replaced=1, killed=1)
    assert wrong(killed, attack="announcement-model") == []
    assert wrong(seen(replaced=2, killed=1), attack="announcement-model") != []
    unharmed = wrong(seen(), attack="announcement-model")
    assert unharmed == ["the attack was not carried out: no worker was killed"]


def test_rate_is_judged_where_the_attack_is_about_it():
    slow = seen(samples_per_s=500.0)
    assert wrong(slow, attack="result-null") == []
    assert len(wrong(slow, attack="silent-peer")) == 1


def test_million_is_to_be_sent_whole():
    sent = seen(report={"frames": 10})
    assert wrong(sent, attack=ALL_SORTS, num_frames=10) == []
    assert wrong(sent, attack=ALL_SORTS, num_frames=1000) == [
        "the attack was not carried out: 10 of 1,000 frames were sent"
    ]


def test_verdict_has_the_figures():
    summary = {**seen().summary, "refused": 17}
    peaks = {"worker 0": 310 << 20, "worker 9": 1}
    run = seen(samples_per_s=950.0, summary=summary, peaks=peaks)
    found = judge(BY_NAME["flood"], run, seen(), num_frames=1)
    assert (found["rate_ratio"], found["refused"]) == (0.95, 17)
    assert found["growth_bytes"] == {"worker 0": 10 << 20}, "what has no reference is not judged"
    assert judge(BY_NAME["flood"], seen(), seen(), num_frames=1)["refused"] is None
