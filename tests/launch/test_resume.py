"""Which runs can be gone on with, and what a user is told."""

import dataclasses
import json

import pytest

from launch.config import ConfigError, RunConfig, to_toml
from launch.resume import CUT, FREE_ONLY, LENGTH, ROUNDING, RUNNING, check_resume

BASE = RunConfig(
    workers=4,
    cuts=(0, 1, 2, 3),
    steps=264,
    lag=1,
    threads=1,
    window=2,
    snapshot_every=4,
    checkpoint_every=22,
    device="cpu",
    link="zmq-ipc",
)
TWO = {"workers": 2, "cuts": (0, 2)}


def check(**changes: object) -> tuple[bool, list[str]]:
    new = dataclasses.replace(BASE, **changes)
    return check_resume(to_toml(BASE), json.dumps({"config": to_toml(new), "num_train": 3}))


def refusal(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_settings_go_on_without_a_word():
    assert check() == (False, [])


@pytest.mark.parametrize(
    "change",
    [
        {"link": "zmq-tcp", "bind": "0.0.0.0"},
        {"window": 7},
        {"report_every_s": 9.0},
        {"snapshot_every": 1, "retain_mb": 9, "checkpoint_every": 3},
        {"hang_timeout_s": 5.0, "max_worker_restarts": 0, "max_bad_steps": 1},
        {"faults": "kill:1@40"},
        {"fresh": True},
    ],
)
def test_how_it_is_run_is_free(change):
    assert check(**change) == (False, [])


def test_another_cut_is_said():
    recut, notes = check(**TWO)
    assert recut
    assert notes == [
        "another cut (workers 4 -> 2, cuts 0,1,2,3 -> 0,2): learning goes on, the lag starts afresh"
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cuts": (0, 1, 2, 4)}, "cuts 0,1,2,3 -> 0,1,2,4"),
        ({"overlap": 0}, "overlap 1 -> 0"),
    ],
)
def test_a_cut_may_change_in_part(change, said):
    recut, (note,) = check(**change)
    assert recut
    assert f"another cut ({said})" in note


def test_a_recut_that_also_changes_the_heads_is_refused():
    assert "decoder-depth 1 -> 2" in refusal(**TWO, decoder_depth=(2,))
    assert "decoder-depth 1 -> 1,0" in refusal(**TWO, decoder_depth=(1, 0))


def test_a_longer_run_says_what_becomes_of_the_schedule():
    assert check(epochs=24, steps=528) == (
        False,
        ["264 steps become 528, and the cosine is laid over all of them"],
    )
    constant = dataclasses.replace(BASE, schedule="constant")
    longer = dataclasses.replace(constant, steps=528)
    text = json.dumps({"config": to_toml(longer)})
    assert check_resume(to_toml(constant), text)[1] == ["264 steps become 528"]


def test_epochs_that_give_as_many_steps_are_no_news():
    assert check(epochs=13) == (False, [])


@pytest.mark.parametrize(
    ("change", "said"),
    [({"threads": 2}, "threads 1 -> 2"), ({"device": "cuda"}, "device cpu -> cuda")],
)
def test_what_changes_the_rounding_is_said(change, said):
    assert check(**change) == (
        False,
        [f"{said}: from here on the bits are not those of an uninterrupted run"],
    )


def test_what_free_ties_may_do_can_change_with_a_word_and_the_lag_can_not():
    free = dataclasses.replace(BASE, lag=None, free_ties=True, max_staleness=8)
    new = dataclasses.replace(free, max_staleness=4)
    text = json.dumps({"config": to_toml(new)})
    recut, notes = check_resume(to_toml(free), text)
    assert not recut
    assert notes == ["max-staleness 8 -> 4"]
    assert "(lag 1 -> None, free-ties False -> True)" in refusal(lag=None, free_ties=True)


def test_all_that_is_to_be_said_is_said_at_once():
    recut, notes = check(**TWO, threads=2, steps=300, window=4)
    assert recut
    assert [note.split()[0] for note in notes] == ["another", "264", "threads"]


def test_another_run_is_refused_with_the_difference():
    assert refusal(seed=1, batch_size=32, threads=2, window=5) == (
        "the run directory holds a run with other settings (batch-size 64 -> 32, seed 0 -> 1);"
        " give those it was begun with, another --run-dir, or --fresh to start over"
    )


OTHER = {
    "method": "e2e",
    "model": "mlp",
    "data": "synthetic:1x8x8",
    "split": 1,
    "tie": "none",
    "lag": 2,
    "free_ties": True,
    "alpha": 0.5,
    "objective": "cross-entropy",
    "temperature": 0.7,
    "decoder_depth": (2,),
    "optimizer": "sgd",
    "lr": 0.5,
    "weight_decay": 0.5,
    "schedule": "constant",
    "warmup_steps": 5,
    "batch_size": 32,
    "seed": 1,
}


@pytest.mark.parametrize("name", OTHER)
def test_what_makes_up_a_result_may_not_change(name):
    free = {"lag": None} if name == "free_ties" else {}
    assert f"{name.replace('_', '-')} " in refusal(**{name: OTHER[name]}, **free)


def test_every_setting_is_of_one_class():
    classes = [RUNNING, CUT, LENGTH, ROUNDING, FREE_ONLY, set(OTHER)]
    names = [field.name for field in dataclasses.fields(RunConfig)]
    assert sorted(name for members in classes for name in members) == sorted(names)
