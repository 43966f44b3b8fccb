"""Faults as data: the notation both ways, what is refused and how it is told, the drawing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.faults.plan import KINDS, Fault, Place, check, draw, parse

# The notation ----------------------------------------------------------------------------------


def fault(kind: str, step: int, **more) -> Fault:
    return Fault(kind=kind, step=step, **{"amount": KINDS[kind].amount} | more)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("kill:1@40", fault("kill", 40, block=1)),
        ("slow:2@50x3+20", fault("slow", 50, block=2, factor=3.0, amount=20.0)),
        ("slow:2@50", fault("slow", 50, block=2)),
        ("slow:0@1x2.5", fault("slow", 1, block=0, factor=2.5)),
        ("drop:0-1@70", fault("drop", 70, edge=(0, 1))),
        ("drop:1-0@70", fault("drop", 70, edge=(1, 0))),
        ("partition:0-1@70+2", fault("partition", 70, edge=(0, 1), amount=2.0)),
        ("delay:3-2@0+0.25", fault("delay", 0, edge=(3, 2), amount=0.25)),
        ("coordinator-kill@80", fault("coordinator-kill", 80)),
        ("kill-restarting:10@7", fault("kill-restarting", 7, block=10)),
    ],
)
def test_fault_is_read_from_its_notation(text, meant):
    assert parse(text) == (meant,)


def test_plan_is_faults_with_commas_and_spaces_mean_nothing():
    plan = parse(" kill:1@40, drop:0-1@70 ,,")
    assert plan == (fault("kill", 40, block=1), fault("drop", 70, edge=(0, 1)))
    assert parse("") == parse(" , ") == ()


def test_defaults_are_written_out():
    assert str(parse("slow:2@50")[0]) == "slow:2@50x3+10"
    assert str(parse("delay:0-1@5")[0]) == "delay:0-1@5+0.5"
    assert str(parse("job-kill@5")[0]) == "job-kill@5"


tenths = st.integers(0, 1000).map(lambda tenth: tenth / 10)


@st.composite
def faults(draw_: st.DrawFn) -> Fault:
    kind = draw_(st.sampled_from(list(KINDS)))
    place, low = KINDS[kind].place, draw_(st.integers(0, 20))
    edge = draw_(st.sampled_from([(low, low + 1), (low + 1, low)]))
    return Fault(
        kind=kind,
        step=draw_(st.integers(0, 10**6)),
        block=low if place is Place.BLOCK else None,
        edge=edge if place is Place.EDGE else None,
        factor=draw_(tenths) if kind == "slow" else 3.0,
        amount=draw_(tenths) if KINDS[kind].amount_of else 0.0,
    )


@settings(derandomize=True, deadline=None, max_examples=200)
@given(plan=st.lists(faults(), max_size=5))
def test_plan_written_is_the_plan_read(plan):
    assert parse(",".join(map(str, plan))) == tuple(plan)


# What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kil:1@40", "fault 'kil:1@40': there is no kind 'kil'; did you mean 'kill'?"),
        (
            "qqq:1@40",
            f"fault 'qqq:1@40': there is no kind 'qqq'; choose from {', '.join(KINDS)}",
        ),
        ("qqq", f"fault 'qqq': there is no kind 'qqq'; choose from {', '.join(KINDS)}"),
        ("kill:1", "fault 'kill:1' is malformed; write kill for a block, as in kill:1@40"),
        ("kill:-1@4", "fault 'kill:-1@4' is malformed; write kill for a block, as in kill:1@40"),
        (
            "drop:0-1@x",
            "fault 'drop:0-1@x' is malformed; write drop for an edge with its direction,"
            " as in drop:0-1@70 or drop:1-0@70",
        ),
        ("kill@40", "fault 'kill@40': kill strikes a block, as in kill:1@40"),
        ("kill:0-1@40", "fault 'kill:0-1@40': kill strikes a block, as in kill:1@40"),
        (
            "drop:1@40",
            "fault 'drop:1@40': drop strikes an edge with its direction,"
            " as in drop:0-1@70 or drop:1-0@70",
        ),
        (
            "job-kill:0@40",
            "fault 'job-kill:0@40': job-kill strikes the job, as in coordinator-kill@80",
        ),
        (
            "job-kill:0-1@40",
            "fault 'job-kill:0-1@40': job-kill strikes the job, as in coordinator-kill@80",
        ),
        ("drop:0-2@40", "fault 'drop:0-2@40': workers 0 and 2 are no neighbours"),
        ("drop:1-1@40", "fault 'drop:1-1@40': workers 1 and 1 are no neighbours"),
        ("kill:1@40x2", "fault 'kill:1@40x2': only slow takes a factor (x)"),
        ("kill:1@40+2", "fault 'kill:1@40+2': kill takes no duration (+)"),
        (
            "kill:1@4,dorp:0-1@5",
            "fault 'dorp:0-1@5': there is no kind 'dorp'; did you mean 'drop'?",
        ),
    ],
)
def test_refusal_gives_the_value_and_the_remedy(text, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kill:4@3", "fault 'kill:4@3': there is no worker 4; the job has 0 to 3"),
        ("drop:3-4@3", "fault 'drop:3-4@3': there is no worker 4; the job has 0 to 3"),
        ("drop:4-3@3", "fault 'drop:4-3@3': there is no worker 4; the job has 0 to 3"),
        ("kill:3@10", "fault 'kill:3@10': the job ends before step 10"),
        ("job-kill@10", "fault 'job-kill@10': the job ends before step 10"),
    ],
)
def test_fault_that_the_job_never_meets_is_refused(text, message):
    check(parse("kill:3@9,drop:2-3@9,drop:3-2@0,job-kill@9"), num_workers=4, num_steps=10)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check(parse(text), num_workers=4, num_steps=10)
    assert str(caught.value) == message


# Drawing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_faults_are_those_the_job_can_meet(kind):
    rng = random.Random(0)
    drawn = [draw(kind, rng, num_workers=3, steps=range(5, 8)) for _ in range(200)]
    check(drawn, num_workers=3, num_steps=8)
    assert parse(",".join(map(str, drawn))) == tuple(drawn)
    assert {one.step for one in drawn} == {5, 6, 7}
    places = {
        Place.BLOCK: {(0, None), (1, None), (2, None)},
        Place.EDGE: {(None, edge) for edge in ((0, 1), (1, 0), (1, 2), (2, 1))},
        Place.JOB: {(None, None)},
    }
    assert {(one.block, one.edge) for one in drawn} == places[KINDS[kind].place]


def test_one_seed_draws_one_fault():
    again = [draw("kill", random.Random(3), num_workers=9, steps=range(99)) for _ in range(2)]
    assert again[0] == again[1]
