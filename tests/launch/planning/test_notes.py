"""What a user is told of a run before it starts."""

import dataclasses

from launch.planning.notes import notes_on

from ..runs import light, resolved
from .test_rates import EQUAL


def test_default_run_has_nothing_to_be_said_of_it():
    assert notes_on(resolved()) == []


def test_workers_that_take_turns_on_a_gpu_are_told():
    """Eight workers of two hosts with four GPUs each were said to share four."""
    run = light(workers=4)
    on_gpus = dataclasses.replace(
        run, config=dataclasses.replace(run.config, device="cuda"), workers_per_host=4
    )
    (note,) = notes_on(dataclasses.replace(on_gpus, gpus=1))
    told = "share the one GPU of their host and take turns there: no speed-up is to be expected"
    assert note == f"4 workers {told}"
    (note,) = notes_on(dataclasses.replace(on_gpus, gpus=3))
    assert note.startswith("4 workers share the 3 GPUs of their host")
    assert notes_on(dataclasses.replace(on_gpus, gpus=4)) == []
    assert notes_on(dataclasses.replace(run, gpus=0)) == []


def test_validation_is_told_since_its_figures_are_not_the_tests():
    (note,) = notes_on(light(validation=0.1))
    assert note == (
        "validation 0.1: what is called test here are training images that are held out, and 1,293"
        " are left to train on"
    )


def test_lag_of_0_is_told_with_what_it_costs():
    (note,) = notes_on(resolved(lag=0))
    assert note == (
        "lag 0 makes neighbours wait: by counted FLOPs, edge 1-2 allows 96% of full rate at"
        " most; --lag 1 would allow all of it"
    )
    assert notes_on(resolved(lag=0, tie="none")) == []
    assert notes_on(resolved(lag=0, overlap=0)) == []


def test_measured_cuts_are_told_and_measured_times_used():
    run = dataclasses.replace(light(workers=4, lag=0), measured=EQUAL)
    assert notes_on(run) == [
        "cuts 0,1,2,3 follow from times measured now; repeat this run by its config.toml, which"
        " holds them",
        "lag 0 makes neighbours wait: by measured times, edge 0-1 allows 86% of full rate at"
        " most; --lag 1 would allow all of it",
    ]


def test_source_that_is_the_slowest_stage_is_told():
    """Each of four blocks takes 6 s or less for what it learns."""
    told = []
    for source in (5.9, 6.1):
        costs = dataclasses.replace(EQUAL, source=source)
        notes = notes_on(dataclasses.replace(light(workers=4), measured=costs))
        told.append([note for note in notes if note.startswith("the source is the slowest stage")])
    (note,) = told[1]
    assert told[0] == []
    assert "block 0 takes 6100.0 ms a step for its batch and the views of it" in note
    assert "the slowest block 6000.0 ms for what it learns (block 0)" in note


def test_run_with_free_ties_is_said_not_to_be_reproducible():
    (note,) = notes_on(light(free_ties=True, max_staleness=5))
    assert note == (
        "free ties: each step takes the ties that have arrived, so this run can't be reproduced;"
        " only ties over 5 steps old are waited for, and how old they were is measured"
    )
