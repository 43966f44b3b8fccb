"""Which runs can be resumed, and what a user is told."""

import dataclasses
import json
import tomllib

import pytest
import tomli_w

from launch.config import ROLES, ConfigError, ResolvedConfig, Role, RunConfig, kebab
from launch.config_file import from_toml, to_toml
from launch.resume import resume

BASE = ResolvedConfig(
    given=RunConfig(workers=4),
    workers=4,
    cuts=(0, 1, 2, 3),
    overlap=(1, 1, 1),
    lag=1,
    steps=264,
    threads=1,
    window=2,
    snapshot_every=4,
    retain_mb=1024,
    checkpoint_every=22,
    device="cpu",
    link="zmq-ipc",
)
TWO = {"workers": 2, "cuts": (0, 2), "overlap": (1,)}


def check(
    old: ResolvedConfig = BASE, *, step: int = 100, **changes: object
) -> tuple[ResolvedConfig, bool, list[str]]:
    """The config with which a checkpoint of `old` is resumed, if it is recut, and the notes."""
    new = dataclasses.replace(BASE, **changes)
    found = resume(to_toml(old), step, json.dumps({"config": to_toml(new), "num_train": 3}))
    facts = json.loads(found.text)
    assert facts["num_train"] == 3
    return from_toml(facts["config"]), found.recut, list(found.notes)


def refusal(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_same_settings_resume_without_a_note():
    assert check() == (BASE, False, [])


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
def test_settings_of_how_it_is_run_are_free(change):
    assert check(**change)[1:] == (False, [])


def test_cut_that_changes_is_told():
    _, recut, notes = check(**TWO)
    assert recut
    assert notes == [
        "another cut (workers 4 -> 2, cuts 0,1,2,3 -> 0,2, overlap 1,1,1 -> 1): learning goes on,"
        " the lag starts afresh, and the run can't be repeated as a whole"
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cuts": (0, 1, 2, 4)}, "cuts 0,1,2,3 -> 0,1,2,4"),
        ({"overlap": (0, 0, 0)}, "overlap 1,1,1 -> 0,0,0"),
    ],
)
def test_cut_may_change_in_part(change, said):
    _, recut, (note,) = check(**change)
    assert recut
    assert f"another cut ({said})" in note


def test_recut_that_changes_the_heads_too_is_refused():
    assert "decoder-depth 1 -> 2" in refusal(**TWO, decoder_depth=(2,))
    assert "decoder-depth 1 -> 1,0" in refusal(**TWO, decoder_depth=(1, 0))


def test_extension_says_what_becomes_of_the_schedule():
    _, recut, notes = check(epochs=24, steps=528)
    assert not recut
    assert notes == [
        "264 steps become 528; from step 100 on the cosine is laid over all of them",
    ]
    constant = dataclasses.replace(BASE, schedule="constant")
    assert check(constant, schedule="constant", steps=528)[2] == ["264 steps become 528"]


def test_extensions_are_recorded_with_their_first_steps():
    once, *_ = check(step=264, steps=528)
    assert once.earlier_lengths == ((264, 264),)
    again, _, notes = check(once, step=300, steps=528)
    assert (again.earlier_lengths, notes) == (((264, 264),), [])
    twice, *_ = check(once, step=300, steps=400)
    assert twice.earlier_lengths == ((264, 264), (300, 528))


def test_config_toml_of_an_extension_resumes_that_run_alone():
    once, *_ = check(step=264, steps=528)
    asked = {"steps": 528, "earlier_lengths": once.earlier_lengths}
    assert check(once, step=300, **asked) == (once, False, [])
    assert check(step=264, **asked)[0] == once  # it was stopped before its first checkpoint
    for old, step in ((BASE, 200), (dataclasses.replace(BASE, steps=528), 300)):
        with pytest.raises(ConfigError, match="earlier-lengths"):
            check(old, step=step, **asked)


def test_epochs_that_give_as_many_steps_are_no_news():
    assert check(epochs=13)[1:] == (False, [])


@pytest.mark.parametrize(
    ("change", "said"),
    [({"threads": 2}, "threads 1 -> 2"), ({"device": "cuda"}, "device cpu -> cuda")],
)
def test_rounding_that_changes_is_told(change, said):
    assert check(**change)[1:] == (
        False,
        [f"{said}: from here on the bits are not those of an uninterrupted run"],
    )


def test_staleness_may_change_and_the_lag_may_not():
    free = {"lag": None, "free_ties": True, "max_staleness": 8}
    _, _, (note,) = check(dataclasses.replace(BASE, **free), **free | {"max_staleness": 4})
    assert note.startswith("max-staleness 8 -> 4: ")
    assert "(lag 1 -> None, free-ties False -> True)" in refusal(lag=None, free_ties=True)


def test_notes_come_all_at_once():
    _, recut, notes = check(**TWO, threads=2, steps=300, window=4)
    assert recut
    assert [note.split()[0] for note in notes] == ["another", "264", "threads"]


def test_run_with_other_settings_is_refused_with_them():
    assert refusal(seed=1, batch_size=32, threads=2, window=5) == (
        "the run that would be resumed has other settings (batch-size 64 -> 32, seed 0 -> 1); give"
        " those it was begun with, another --run-dir (and --checkpoint-dir, if given), or --fresh"
        " to start over"
    )


OTHER = {
    "method": "e2e",
    "model": "mlp",
    "data": "synthetic:1x8x8",
    "split": 1,
    "validation": 0.2,
    "image_size": 16,
    "views": "simclr",
    "tie": "none",
    "lag": 2,
    "free_ties": True,
    "alpha": 0.5,
    "objective": "cross-entropy",
    "temperature": 0.7,
    "head_hidden": 32,
    "head_features": 32,
    "decoder_depth": (2,),
    "optimizer": "sgd",
    "lr": 0.5,
    "weight_decay": 0.5,
    "schedule": "constant",
    "warmup_steps": 5,
    "batch_size": 32,
    "seed": 1,
    "head": "mine:head",
    "lr_scale": (2.0,),
    "grad_clip": 1.0,
    "precision": "bf16",
    "channels_last": True,
    "recompute": True,
    "compile": True,
    "train_images": 99,
    "wire_precision": ("bf16",),
    "wire_ties": True,
}
BESIDE = {"free_ties": {"lag": None}, "wire_ties": {"wire_precision": ("fp16",)}}


@pytest.mark.parametrize("name", [name for name, role in ROLES.items() if role is Role.RESULT])
def test_settings_of_the_result_may_not_change(name):
    said = refusal(**{name: OTHER[name]}, **BESIDE.get(name, {}))
    assert said.startswith("the run that would be resumed has other settings (")
    assert f"{kebab(name)} " in said


def test_wire_precision_is_told_per_edge():
    assert "wire-precision exact -> exact,bf16,exact)" in refusal(
        wire_precision=("exact", "bf16", "exact")
    )


def test_run_from_before_edges_could_round_is_resumed():
    values = tomllib.loads(to_toml(BASE))
    assert values.pop("wire-precision") == ["exact"]
    assert values.pop("wire-ties") is False
    assert resume(tomli_w.dumps(values), 100, json.dumps({"config": to_toml(BASE)})).notes == []


def test_another_processor_is_told():
    """bf16 has other bits with AMX and without."""
    old = dataclasses.replace(BASE, processor="amx")
    told = "processor amx -> avx: from here on the bits are not those of an uninterrupted run"
    assert check(old, processor="avx")[2] == [told]
    assert check(old, processor="amx")[2] == []


def test_other_torch_and_other_code_are_told():
    """A run was resumed with an edited network, or by another torch, without a word."""
    old = dataclasses.replace(BASE, torch="2.12.0", code="model 0a")
    assert check(old, torch="2.12.0", code="model 0a")[2] == []
    assert check(old, torch="2.13.0", code="model 1b")[2] == [
        "your code has changed (model 0a -> model 1b): from here on this is not the run that was"
        " begun",
        "torch 2.12.0 -> 2.13.0: from here on the bits are not those of an uninterrupted run",
    ]
    assert check(dataclasses.replace(BASE), torch="2.13.0", code="model 1b")[2] == []


def test_other_data_are_refused_if_there_are_more_of_them_and_else_told():
    """Images that were added between run and resume went into it without a word."""
    old = dataclasses.replace(BASE, data_sizes="9 train images", data_digest="abc")
    assert check(old, data_sizes="9 train images", data_digest="abc")[2] == []
    with pytest.raises(ConfigError, match=r"\(9 train images -> 10 train images\); "):
        check(old, data_sizes="10 train images", data_digest="def")
    assert check(old, data_sizes="9 train images", data_digest="def")[2] == [
        "the data have changed (digest abc -> def): from here on this is not the run that was begun"
    ]
