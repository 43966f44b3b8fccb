"""The campaign's judgement: a run that is well passes, and each thing that is wrong is named."""

from dataclasses import replace

import pytest

from benchmarks.faults.campaign import (
    CHECKPOINT_EVERY,
    HANG_TIMEOUT_S,
    NUM_WORKERS,
    SOAKED,
    Options,
    add_row,
    judge,
    make_fault_table,
    make_job,
    make_plan,
    soak_plan,
    struck,
)
from runtime.faults.plan import KINDS, check, parse

from .outcomes import BEGAN_T, DIGEST, died, outcome, steady

KILLED_T = BEGAN_T + 5.5
STEPS = 32


def killed(*, kind: str = "kill", by: dict[int, list] | None = None, **changes):
    """The outcome of a fault on worker 1 at step 5, of which it dies."""
    workers = {k: steady(k) for k in range(NUM_WORKERS)} | {1: died(1, 5)} | (by or {})
    given = {"faults": {f"{kind}:1@5": KILLED_T}} | changes
    return outcome(*workers.values(), **given)


def wrong(found, *, kind: str = "kill", plan: str | None = None, expected: str = DIGEST):
    plan = f"{kind}:1@5" if plan is None else plan
    return judge(kind, parse(plan), found, expected)["wrong"]


# What is wrong ----------------------------------------------------------------------------------


def test_case_of_a_run_that_healed_is_well_and_has_its_figures():
    case = judge("kill", parse("kill:1@5"), killed(), DIGEST)
    assert case["wrong"] == []
    assert (case["fired"], case["identical"], case["others_unchanged"]) == (True, True, True)
    assert (case["detected_s"], case["healed_s"]) == pytest.approx((0.5, 2.5))
    assert (case["duplicates_dropped"], case["replayed"]) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"faults": {}}, ["did not fire", "not healed", "not detected"]),
        ({"exit_code": 1}, ["exit code 1"]),
        ({"summary": {"state_sha256": DIGEST}}, ["exit code 0"]),
        ({"by": {1: steady(1, 6)}}, ["not healed", "not detected"]),
        ({"by": {1: died(1, 5, detected_s=-2.0)}}, ["not detected"]),
        ({"by": {3: died(3, 7)}}, ["other processes changed: [3]"]),
        ({"left_behind": ["port 7"]}, ["left behind: ['port 7']"]),
    ],
)
def test_flaw_of_a_run_is_named(changes, named):
    assert wrong(killed(**changes)) == named


def test_result_that_differs_is_wrong_whatever_else_is_well():
    assert wrong(killed(), expected="b" * 64) == ["another result"]


def test_hang_is_to_be_detected_in_its_time():
    in_time, late = (
        killed(kind="hang", by={1: died(1, 5, detected_s=HANG_TIMEOUT_S + s, healed_s=9.0)})
        for s in (0.9, 1.1)
    )
    assert wrong(in_time, kind="hang") == []
    assert wrong(late, kind="hang") == ["detected late"]
    late_death = killed(by={1: died(1, 5, detected_s=HANG_TIMEOUT_S + 1.1, healed_s=9.0)})
    assert wrong(late_death) == [], "a death is seen when the kernel tells of it"


@pytest.mark.parametrize("kind", ["slow", "nan", "disk-full", "drop"])
def test_fault_that_kills_nobody_must_change_no_process(kind):
    fault = "drop:0-1@5" if kind == "drop" else f"{kind}:1@5"
    faults = {str(*parse(fault)): KILLED_T}
    unharmed = killed(by={1: steady(1)}, faults=faults)
    assert wrong(unharmed, kind=kind, plan=fault) == []
    restarted = killed(faults=faults)
    assert wrong(restarted, kind=kind, plan=fault) == ["other processes changed: [1]"]


def test_fault_of_the_whole_job_may_change_every_process():
    everyone = {k: died(k, 5) for k in range(NUM_WORKERS)}
    found = killed(by=everyone, faults={"job-kill@5": KILLED_T})
    assert wrong(found, kind="job-kill", plan="job-kill@5") == []


def test_damage_to_a_checkpoint_must_be_seen():
    plan = "torn:1@5,job-kill@9"
    faults = {"torn:1@5": KILLED_T, "job-kill@9": BEGAN_T + 9.5}
    unseen = killed(faults=faults)
    assert wrong(unseen, kind="torn", plan=plan) == ["damage not seen"]
    seen = replace(unseen, text="loco: damaged checkpoint is passed over: ...")
    assert wrong(seen, kind="torn", plan=plan) == []
    assert wrong(replace(seen, fired=seen.fired[:1]), kind="torn", plan=plan) == ["did not fire"]


def test_both_of_two_neighbours_are_to_heal():
    plan = "kill:1@5,kill:2@5"
    faults = {"kill:1@5": KILLED_T, "kill:2@5": KILLED_T}
    kind = "two-neighbours"
    found = killed(by={2: died(2, 5, detected_s=0.7, healed_s=4.0)}, faults=faults)
    case = judge(kind, parse(plan), found, DIGEST)
    assert case["wrong"] == []
    assert (case["detected_s"], case["healed_s"]) == pytest.approx((0.7, 4.0))  # the worse
    one = killed(by={2: steady(2, 6)}, faults=faults)
    assert wrong(one, kind=kind, plan=plan) == ["not healed", "not detected"]


def test_fault_is_seen_at_its_worker_or_at_its_receiver():
    plan = parse("kill:2@5,drop:1-2@5,drop:2-1@5,coordinator-kill@5")
    assert [struck(fault) for fault in plan] == [2, 2, 1, 0]


# Which faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "two-neighbours"])
def test_plan_of_a_case_is_one_the_job_meets_and_repeats(kind):
    for seed in range(20):
        plan = make_plan(kind, seed, STEPS)
        assert plan == make_plan(kind, seed, STEPS)
        check(plan, num_workers=NUM_WORKERS, num_steps=STEPS)
        assert all(1 <= fault.step < STEPS - 5 for fault in plan)
    assert len({str(make_plan(kind, seed, STEPS)) for seed in range(20)}) > 1


@pytest.mark.parametrize("kind", ["torn", "flip"])
def test_job_is_killed_before_the_next_whole_checkpoint(kind):
    for seed in range(20):
        damage, death = make_plan(kind, seed, 60)
        damaged = -(-damage.step // CHECKPOINT_EVERY) * CHECKPOINT_EVERY  # the next one
        assert damaged <= death.step < damaged + CHECKPOINT_EVERY


def test_soak_has_the_mean_between_faults_and_spares_the_end():
    options = Options(mtbf_s=15.0)
    faults = soak_plan(options, 20_000, step_s=0.5)
    assert faults == soak_plan(options, 20_000, step_s=0.5)
    assert len(faults) == pytest.approx(20_000 * 0.5 / 15.0, rel=0.1)
    assert {fault.kind for fault in faults} == set(SOAKED)
    steps = [fault.step for fault in faults]
    assert steps == sorted(set(steps))
    assert steps[-1] < 20_000 - CHECKPOINT_EVERY


def test_job_takes_flags_over_its_own():
    flags = make_job(Options(), steps=40, max_bad_steps=7, threads=2).flags
    assert {"--steps=40", "--max-bad-steps=7", "--threads=2", "--quick-end"} <= set(flags)
    assert "--threads=1" not in flags


# What is shown ----------------------------------------------------------------------------------


def test_row_of_a_kind_has_counts_medians_and_the_worst():
    table = make_fault_table()
    case = judge("kill", parse("kill:1@5"), killed(), DIGEST) | {"slower_by": 0.1}
    bad = case | {"healed_s": 4.5, "identical": False, "wrong": ["another result"]}
    add_row(table, "kill", [case, bad])
    add_row(table, "drop", [case | {"detected_s": None}])
    cells = [list(column.cells) for column in table.columns]
    assert [c[0] for c in cells] == [
        *("kill", "2/2", "0.50", "3.50", "4.50", "2", "4", "2/2", "+10%", "1/2", "WRONG")
    ]
    assert [c[1] for c in cells][1:4] == ["1/1", "–", "2.50"]
    assert cells[-1][1] == "ok"
