"""What can be said of a run without loading anything: checks, roles, and what follows."""

import subprocess
import sys
from typing import get_args

import pytest

from launch.config import ROLES, ConfigError, Role, RunConfig, refuse_free_ties
from launch.config_file import parse


def refusal(argv: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(argv, prog="pipeline.py")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--lag -1", "lag -1 is not allowed; give 0 or more steps; 0 ties neighbours step by step"),
        (
            "--lag 0 --free-ties",
            "lag 0 and free-ties exclude each other; leave one of them out",
        ),
        ("--head-hidden 0", "head-hidden 0 is not allowed; give at least 1, such as 256"),
        (
            "--head my.py:head --head-features 8",
            "head-features 8 is not allowed with head my.py:head, which has its own widths; leave"
            " it out, or give --head mlp or mlp-bn",
        ),
        ("--free-ties --max-staleness 0", "max-staleness 0 is not allowed; give at least 1 step"),
        (
            "--max-staleness 5",
            "max-staleness 5 is not allowed under a fixed lag; give --free-ties, or leave"
            " --max-staleness out",
        ),
        (
            "--overlap -1",
            "overlap -1 is not allowed; give 0 or more units, one number per edge, or stage",
        ),
        ("--cuts=", "cuts '' is not allowed; begin with 0, the first unit of the network"),
        (
            "--checkpoint-dir=",
            "checkpoint-dir '' is not allowed; give a directory or a URL; was it not set?",
        ),
        ("--alpha 1.5", "alpha 1.5 is not allowed; give a pull from 0 to 1, such as 0.02"),
        ("--temperature 0", "temperature 0.0 is not allowed; give a figure above 0, such as 0.5"),
        ("--lr nan", "lr nan is not allowed; give a rate above 0, such as 0.002"),
        ("--weight-decay -1", "weight-decay -1.0 is not allowed; give 0 or more, such as 0.0001"),
        ("--warmup-steps -1", "warmup-steps -1 is not allowed; give 0 or more steps"),
        (
            "--batch-size 1",
            "batch-size 1 is not allowed; give at least 2 images, for a loss contrasts them",
        ),
        ("--epochs 0", "epochs 0 is not allowed; give at least 1"),
        ("--steps 0", "steps 0 is not allowed; give at least 1"),
        ("--workers 0", "workers 0 is not allowed; give at least 1"),
        ("--threads 0", "threads 0 is not allowed; give 1 to 1024"),
        ("--seed -1", "seed -1 is not allowed; give 0 or more"),
        ("--split -1", "split -1 is not allowed; give 0 or more"),
        (
            "--window 1",
            "window 1 is not allowed; give at least 2, so that one moves while one is computed",
        ),
        (
            "--report-every-s 0",
            "report-every-s 0.0 is not allowed; give seconds above 0, such as 0.5",
        ),
        ("--cuts 1,2", "cuts 1,2 is not allowed; begin with 0, the first unit of the network"),
        (
            "--cuts 0,2,1",
            "cuts 0,2,1 is not allowed; give the first unit of each home in rising order, such as "
            "0,1,2,3",
        ),
        ("--max-memory-mb 0", "max-memory-mb 0 is not allowed; give at least 1"),
        ("--snapshot-every 0", "snapshot-every 0 is not allowed; give at least 1 step"),
        ("--retain-mb 0", "retain-mb 0 is not allowed; give at least 1"),
        ("--checkpoint-every 0", "checkpoint-every 0 is not allowed; give at least 1 step"),
        ("--hang-timeout-s .4", "hang-timeout-s 0.4 is not allowed; give 0.5 to 1,000,000 s"),
        ("--hang-timeout-s nan", "hang-timeout-s nan is not allowed; give 0.5 to 1,000,000 s"),
        (
            "--max-worker-restarts -1",
            "max-worker-restarts -1 is not allowed; give 0 or more; 0 ends the job at once",
        ),
        ("--max-bad-steps 0", "max-bad-steps 0 is not allowed; give at least 1"),
        ("--faults kil:1@4", "fault 'kil:1@4': there is no kind 'kil'; did you mean 'kill'?"),
        (
            "--faults kill:1@4,drop:0-2@4",
            "fault 'drop:0-2@4': workers 0 and 2 are no neighbours",
        ),
        (
            "--wire-precision fp32,bf16",
            "wire-precision fp32,bf16 is not allowed; give exact, fp16 or bf16, one for all edges"
            " or one per edge (exact,bf16,exact)",
        ),
        (
            "--wire-precision=",
            "wire-precision '' is not allowed; give exact, fp16 or bf16, one for all edges or one"
            " per edge (exact,bf16,exact)",
        ),
        (
            "--wire-ties",
            "wire-ties is not allowed with wire-precision exact, which rounds nothing; give"
            " --wire-precision bf16, or leave --wire-ties out",
        ),
        (
            "--wire-ties --wire-precision bf16 --tie none",
            "wire-ties is not allowed with tie none, which sends nothing; give another --tie, or"
            " leave --wire-ties out",
        ),
        (
            "--wire-ties --wire-precision bf16,fp16 --free-ties",
            "wire-precision bf16,fp16 is not allowed with free-ties and wire-ties: for weights that"
            " overflow in fp16 a neighbour would wait for ever; give bf16, a fixed --lag, or leave"
            " --wire-ties out",
        ),
        (
            "--decoder-depth 1,-1",
            "decoder-depth 1,-1 is not allowed; give 0 or more conv blocks, as in 1",
        ),
    ],
)
def test_value_that_is_not_allowed_is_refused(argv, message):
    assert refusal(argv.split()) == message


def test_path_that_is_not_utf8_is_refused():
    """A name of other bytes than UTF-8 was a TypeError of the store's."""
    for flag in ("--run-dir", "--model", "--data"):
        assert "is not UTF-8; give a name that is" in refusal([flag, "runs/\udcff.py:build"])


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--lr", "1e300"), ("--threads", "100000"), ("--phase-timeout-s", "1e300")],
)
def test_figures_that_no_machine_can_take_are_refused(flag, value):
    """They passed, and ended in a segmentation fault or in a traceback of torch's."""
    assert " is not allowed; give " in refusal([flag, value])


def test_every_field_has_one_role():
    assert list(ROLES) == list(RunConfig.__dataclass_fields__)
    for name, field in RunConfig.__dataclass_fields__.items():
        marks = [mark for mark in get_args(field.type) if isinstance(mark, Role)]
        assert marks in ([], [ROLES[name]])


def test_configs_that_differ_in_place_alone_are_equal():
    place = {name for name, role in ROLES.items() if role is Role.PLACE}
    uncompared = {n for n, field in RunConfig.__dataclass_fields__.items() if not field.compare}
    assert place == uncompared


def test_depth_is_one_figure_or_one_per_block():
    assert [RunConfig(decoder_depth=(2,)).depth_of(k) for k in range(3)] == [2, 2, 2]
    assert [RunConfig(decoder_depth=(1, 0)).depth_of(k) for k in range(2)] == [1, 0]


def test_wire_precision_is_one_or_one_per_edge():
    assert RunConfig().wire_precision_of(2) == "exact"
    one = parse(["--wire-precision", "bf16"], prog="test")
    assert [one.wire_precision_of(edge) for edge in range(3)] == ["bf16"] * 3
    each = parse(["--wire-precision", " exact, fp16,bf16"], prog="test")
    assert [each.wire_precision_of(edge) for edge in range(3)] == ["exact", "fp16", "bf16"]


@pytest.mark.parametrize(
    "flags",
    [
        "--free-ties --wire-ties --wire-precision bf16",
        "--free-ties --wire-ties --wire-precision fp16 --tie gradient",
        "--free-ties --wire-precision fp16",
        "--wire-ties --wire-precision fp16",
    ],
)
def test_rounded_ties_that_a_neighbour_can_do_without_are_allowed(flags):
    assert "exact" not in parse(flags.split(), prog="test").wire_precision


def test_longest_lag_is_the_bound_of_free_ties():
    longest = [
        RunConfig(**given).longest_lag
        for given in ({}, {"lag": 2}, {"free_ties": True}, {"free_ties": True, "max_staleness": 3})
    ]
    assert longest == [1, 2, 8, 3]


def test_free_ties_are_refused_by_one_process():
    refuse_free_ties(RunConfig())
    with pytest.raises(ConfigError, match="give a fixed lag, such as --lag 1, or use"):
        refuse_free_ties(RunConfig(free_ties=True))


def test_config_is_read_without_torch():
    code = (
        "import sys; from launch.config_file import parse; parse([], prog='x');"
        "print([m for m in ('torch', 'zmq', 'sklearn', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
