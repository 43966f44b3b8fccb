"""Which attacks are tried, and what is said of flags that are wrong."""

import subprocess
import sys

import pytest

from benchmarks.harness import ROOT, make_console
from benchmarks.security.bodies import bodies
from benchmarks.security.campaign import NOT_ROOT, Options, chosen, mistake
from benchmarks.security.catalogue import ATTACKS, RECORD, REPLAY, Job, undisturbed
from benchmarks.security.judge import judge
from benchmarks.security.report import print_attacks
from benchmarks.security.run import LONG_STEPS, SHORT_STEPS, command

from .runs import seen


def test_every_attack_has_a_body_and_a_name_of_its_own():
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert set(bodies(1)) == {RECORD, *names}


def test_all_attacks_are_tried_unless_some_are_named():
    assert chosen(Options()) == list(ATTACKS)
    found = chosen(Options(only=("scan", "result-null")))
    assert [attack.name for attack in found] == ["result-null", "scan"]


@pytest.mark.parametrize(
    ("options", "named"),
    [(Options(only=("rain",)), "no attack rain"), (Options(frames=0), "--frames 0")],
)
def test_mistake_in_flags_is_named(options, named):
    assert named in (mistake(options) or "")
    assert mistake(Options()) is None


@pytest.mark.parametrize("flags", ["--only scan,rain", "--frames many", "--frames 0"])
def test_wrong_flag_ends_in_one_line_before_anything_runs(flags):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.security", *flags.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("security: error: ")
    assert done.stderr.count("\n") == 1


def test_job_that_is_attacked_is_the_default_one_or_goes_over_tcp(tmp_path):
    default, far = (command(undisturbed(job, is_long=False), tmp_path) for job in Job)
    assert not [flag for flag in default if flag.startswith("--link")]
    assert [flag for flag in far if flag not in default] == ["--link=zmq-tcp"]
    assert f"--steps={SHORT_STEPS}" in default
    assert f"--steps={LONG_STEPS}" in command(undisturbed(Job.TCP, is_long=True), tmp_path)


def test_rate_is_judged_only_in_long_runs_and_for_cheap_strangers():
    judged = [attack for attack in ATTACKS if attack.judges_rate]
    assert judged
    assert all(attack.is_long and attack.share <= 0.05 for attack in judged)


def test_attack_that_was_not_made_is_not_held_off_in_the_table(capsys):
    """Without root "replay" may not listen and sends nothing; its line said "held off"."""
    attack = next(attack for attack in ATTACKS if attack.name == REPLAY)
    idle = seen(report={"uid": 1000, "not_made": "to listen on a wire takes root here"})
    print_attacks([judge(attack, idle, seen(), num_frames=1)], make_console())
    _, row, why = capsys.readouterr().out.splitlines()
    assert row.split()[-2:] == ["not", "made"]
    assert why == "replay: not made: to listen on a wire takes root here"
    assert "row 9" in NOT_ROOT


def test_table_says_what_worked(capsys):
    attack = ATTACKS[0]
    kept, broken = seen(replaced=1, killed=1), seen(exit_code=None, wall_s=40.0)
    print_attacks(
        [judge(attack, run, seen(), num_frames=1) for run in (kept, broken)],
        make_console(),
    )
    _, first, second, *lines = capsys.readouterr().out.splitlines()
    assert first.split() == [
        *(attack.name, "1", "0", "yes", "0", "1.00", "+0", "–", "1.0%", "nobody", "held", "off")
    ]
    assert "hung" in second
    assert second.split()[-1] == "WORKED"
    assert lines[0] == f"{attack.name}: the attack was not carried out: no worker was killed"
