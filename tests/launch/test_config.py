"""What a user may say about a run, and what he is told when he can't."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch.config import ConfigError, RunConfig, from_toml, parse, refuse_free_ties, to_toml


def write(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return ["--config", str(path)]


def refusal(argv: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(argv, prog="pipeline.py")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_argument_gives_the_defaults():
    assert parse([], prog="pipeline.py") == RunConfig()


def test_flags_fill_fields_of_every_type(tmp_path):
    argv = f"--cuts 0,1,3 --decoder-depth 1,1,0 --lr 1e-2 --tie none --run-dir {tmp_path}"
    config = parse(argv.split(), prog="pipeline.py")
    expected = RunConfig(cuts=(0, 1, 3), decoder_depth=(1, 1, 0), lr=0.01, tie="none")
    assert config == expected
    assert config.run_dir == tmp_path


def test_flags_of_what_may_go_wrong():
    argv = (
        "--snapshot-every 2 --retain-mb 64 --checkpoint-every 10 --hang-timeout-s 2.5 "
        "--max-worker-restarts 0 --max-bad-steps 3 --faults kill:1@40,drop:0-1@7 --fresh"
    )
    config = parse(argv.split(), prog="pipeline.py")
    assert config == RunConfig(
        snapshot_every=2,
        retain_mb=64,
        checkpoint_every=10,
        hang_timeout_s=2.5,
        max_worker_restarts=0,
        max_bad_steps=3,
        faults="kill:1@40,drop:0-1@7",
    )
    assert config.fresh
    assert not parse([], prog="pipeline.py").fresh


def test_a_flag_wins_over_the_file(tmp_path):
    file = write(tmp_path / "run.toml", "lag = 4\nalpha = 0.5\ncuts = [0, 2]\ndecoder-depth = [2]")
    config = parse(["--lag", "3", *file], prog="pipeline.py")
    assert config == RunConfig(lag=3, alpha=0.5, cuts=(0, 2), decoder_depth=(2,))
    assert config.config == tmp_path / "run.toml"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--epochs", "2"], {"epochs": 2, "steps": None}),
        (["--workers", "2"], {"workers": 2, "cuts": None, "snapshot_every": None}),
        (["--cuts", "0,3"], {"workers": None, "cuts": (0, 3), "snapshot_every": None}),
        (["--cuts", "auto"], {"cuts": "auto", "snapshot_every": None}),
        (["--cuts", "profiled"], {"cuts": "profiled", "snapshot_every": None}),
        (["--max-memory-mb", "9"], {"max_memory_mb": 9, "cuts": None, "snapshot_every": None}),
        (["--decoder-depth", "2"], {"decoder_depth": (2,)}),
        (["--lag", "5"], {"lag": 5, "window": None, "snapshot_every": None}),
        (
            ["--method", "e2e"],
            {"method": "e2e", "workers": None, "cuts": None, "snapshot_every": None},
        ),
        (["--epochs", "2", "--steps", "9"], {"epochs": 2, "steps": 9}),
        (["--window", "5"], {"window": 5, "snapshot_every": None}),
        (["--retain-mb", "5"], {"retain_mb": 5, "snapshot_every": None}),
        (
            ["--batch-size", "8"],
            {"batch_size": 8, "steps": None, "snapshot_every": None, "checkpoint_every": None},
        ),
    ],
)
def test_a_flag_drops_what_followed_from_it_in_the_file(tmp_path, flags, expected):
    resolved = RunConfig(
        workers=4,
        cuts=(0, 1, 2, 3),
        epochs=30,
        steps=330,
        window=2,
        snapshot_every=4,
        checkpoint_every=11,
    )
    config = parse([*write(tmp_path / "run.toml", to_toml(resolved)), *flags], prog="x")
    assert config == replace(resolved, **expected)


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(cuts="auto", max_memory_mb=300),
        RunConfig(cuts="profiled"),
        RunConfig(workers=2, cuts=(0, 1), decoder_depth=(1, 0), lr=1 / 3, alpha=1e-9),
        RunConfig(model='odd "name"\\ [x]', tie="gradient", lag=0, window=9, device="cuda"),
        RunConfig(run_dir=Path("somewhere"), config=Path("else.toml"), fresh=True),
        RunConfig(snapshot_every=2, retain_mb=7, checkpoint_every=9, hang_timeout_s=0.5),
        RunConfig(faults="slow:1@2x3+4, drop:0-1@7", max_worker_restarts=0, max_bad_steps=1),
    ],
)
def test_toml_gives_back_an_equal_config(tmp_path, config):
    again = parse(write(tmp_path / "config.toml", to_toml(config)), prog="pipeline.py")
    assert again == config
    assert from_toml(to_toml(config)) == config


def test_help_names_every_flag_and_exits_with_0(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], prog="pipeline.py")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    flags = (
        "--run-dir --config --workers --model --overlap --cuts --tie --lag --alpha --objective "
        "--temperature --optimizer --lr --epochs --steps --batch-size --seed --threads --link "
        "--method --data --device --decoder-depth --snapshot-every --retain-mb --checkpoint-every "
        "--hang-timeout-s --max-worker-restarts --max-bad-steps --faults --fresh --max-memory-mb"
    )
    assert "pipeline.py" in printed
    assert [flag for flag in flags.split() if f" {flag} " not in printed] == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--lga 3", "Unknown option: --lga. Did you mean --lag?"),
        ("--zzzzzz 3", "Unknown option: --zzzzzz; see --help"),
        ("--lag", "Parameter --lag requires an argument; see --help"),
        (
            "--lag free",
            "Invalid value for --lag: 'free' is not a whole number; to fix no lag, give"
            " --free-ties; see --help",
        ),
        ("--seed 1.5", "Invalid value for --seed: '1.5' is not a whole number; see --help"),
        ("--lag 1 --lag 2", "Parameter --lag specified multiple times; see --help"),
        ("--lr x", 'Invalid value for --lr: unable to convert "x" into float; see --help'),
        (
            "--tie tight",
            'Invalid value "tight" for --tie. Choose from: "gradient", "elastic", "none"; '
            "see --help",
        ),
        ("--cuts 0,x", "Invalid value for --cuts: 'x' is not a whole number; see --help"),
        ("digits", "'digits' is not understood; flags begin with --, and --help lists them"),
    ],
)
def test_a_flag_that_is_not_understood(argv, message):
    assert refusal(argv.split()) == message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--lag -1", "lag -1 can't be; give 0 or more steps; 0 ties neighbours step by step"),
        (
            "--lag 0 --free-ties",
            "lag 0 can't be with free-ties, under which none is fixed; leave one of them out",
        ),
        ("--free-ties --max-staleness 0", "max-staleness 0 can't be; give at least 1 step"),
        (
            "--max-staleness 5",
            "max-staleness 5 can't be under a fixed lag; give --free-ties, or leave"
            " --max-staleness out",
        ),
        ("--overlap -1", "overlap -1 can't be; give 0 or more units; 0 shares nothing"),
        ("--alpha 1.5", "alpha 1.5 can't be; give a pull from 0 to 1, such as 0.02"),
        ("--temperature 0", "temperature 0.0 can't be; give a figure above 0, such as 0.5"),
        ("--lr nan", "lr nan can't be; give a rate above 0, such as 0.002"),
        ("--weight-decay -1", "weight-decay -1.0 can't be; give 0 or more, such as 0.0001"),
        ("--warmup-steps -1", "warmup-steps -1 can't be; give 0 or more steps"),
        (
            "--batch-size 1",
            "batch-size 1 can't be; give at least 2 images, for a loss contrasts them",
        ),
        ("--epochs 0", "epochs 0 can't be; give at least 1"),
        ("--steps 0", "steps 0 can't be; give at least 1"),
        ("--workers 0", "workers 0 can't be; give at least 1"),
        ("--threads 0", "threads 0 can't be; give 1 to 1024"),
        ("--seed -1", "seed -1 can't be; give 0 or more"),
        ("--split -1", "split -1 can't be; give 0 or more"),
        (
            "--window 1",
            "window 1 can't be; give at least 2, so that one moves while one is computed",
        ),
        ("--report-every-s 0", "report-every-s 0.0 can't be; give seconds above 0, such as 0.5"),
        ("--cuts 1,2", "cuts 1,2 can't be; begin with 0, the first unit of the network"),
        (
            "--cuts 0,2,1",
            "cuts 0,2,1 can't be; give the first unit of each home in rising order, such as "
            "0,1,2,3",
        ),
        ("--max-memory-mb 0", "max-memory-mb 0 can't be; give at least 1"),
        ("--snapshot-every 0", "snapshot-every 0 can't be; give at least 1 step"),
        ("--retain-mb 0", "retain-mb 0 can't be; give at least 1"),
        ("--checkpoint-every 0", "checkpoint-every 0 can't be; give at least 1 step"),
        ("--hang-timeout-s .4", "hang-timeout-s 0.4 can't be; give 0.5 to 1,000,000 s"),
        ("--hang-timeout-s nan", "hang-timeout-s nan can't be; give 0.5 to 1,000,000 s"),
        (
            "--max-worker-restarts -1",
            "max-worker-restarts -1 can't be; give 0 or more; 0 ends the job at once",
        ),
        ("--max-bad-steps 0", "max-bad-steps 0 can't be; give at least 1"),
        ("--faults kil:1@4", "fault 'kil:1@4': there is no kind 'kil'; did you mean 'kill'?"),
        (
            "--faults kill:1@4,drop:0-2@4",
            "fault 'drop:0-2@4': workers 0 and 2 are no neighbours",
        ),
        (
            "--decoder-depth 1,-1",
            "decoder-depth 1,-1 can't be; give 0 or more conv blocks, as in 1",
        ),
    ],
)
def test_a_value_that_cannot_be(argv, message):
    assert refusal(argv.split()) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lga = 3", "has an unknown key 'lga'; did you mean 'lag'?"),
        ("run_dir = 'x'", "has an unknown key 'run_dir'; did you mean 'run-dir'?"),
        ("config = 'x'", "has an unknown key 'config'; --help lists the keys"),
        ("lag = = 3", "is not valid TOML: Invalid value (at line 1, column 7)"),
        ("[model]\nname = 'mlp'", ": 'model' is a table; give a plain value"),
        ("lr = 1979-05-27", ": 'lr' is date; give a plain value"),
    ],
)
def test_a_file_that_is_not_understood_is_named(tmp_path, text, message):
    refused = refusal(write(tmp_path / "run.toml", text))
    assert refused.removeprefix(f"config file '{tmp_path}/run.toml'").strip() == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lag = -1", "lag -1 can't be; give 0 or more steps; 0 ties neighbours step by step"),
        (
            "faults = 'kill:1'",
            "fault 'kill:1' is malformed; write kill for a block, as in kill:1@40",
        ),
        ("seed = true", "Invalid value for [seed]: 'True' is not a whole number ({}); see --help"),
        ("cuts = [0, 1.5]", "Invalid value for [cuts]: '1.5' is not a whole number ({}); see "),
    ],
)
def test_a_files_value_that_cannot_be(tmp_path, text, message):
    file = write(tmp_path / "run.toml", text)
    assert refusal(file).startswith(message.format(file[1]))


def test_a_missing_file(tmp_path):
    path = tmp_path / "none.toml"
    assert refusal(["--config", str(path)]) == (
        f"config file '{path}': no such file or directory; check the path"
    )


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in refusal(["--config", str(path)])


def test_reading_a_config_stays_light():
    code = (
        "import sys; from launch.config import parse; parse([], prog='x');"
        "print([m for m in ('torch', 'zmq', 'sklearn', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_free_ties_come_back_from_the_file_they_are_written_to(tmp_path):
    config = parse(["--free-ties", "--max-staleness", "3"], prog="pipeline")
    assert (config.free_ties, config.longest_lag) == (True, 3)
    assert parse(write(tmp_path / "run.toml", to_toml(config)), prog="pipeline") == config
    assert RunConfig(free_ties=True).longest_lag == 8
    assert RunConfig(lag=2).longest_lag == 2


def test_a_program_without_timing_refuses_free_ties():
    refuse_free_ties(RunConfig())
    with pytest.raises(ConfigError, match="give a fixed lag, such as --lag 1, or use"):
        refuse_free_ties(RunConfig(free_ties=True))


def test_an_empty_path_is_no_directory():
    """--run-dir "$RUN", with RUN unset, wrote a run into the current directory."""
    assert "--run-dir: the path is empty; was a variable not set?" in refusal(["--run-dir", ""])


def test_a_path_that_can_not_be_told_is_refused():
    """A name of other bytes than UTF-8 was a TypeError of the store's."""
    for flag in ("--run-dir", "--model", "--data"):
        assert "is not UTF-8; give a name that is" in refusal([flag, "runs/\udcff.py:build"])


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--lr", "1e300"), ("--threads", "100000"), ("--phase-timeout-s", "1e300")],
)
def test_figures_that_no_machine_can_take_are_refused(flag, value):
    """They passed, and ended in a segmentation fault or in a traceback of torch's."""
    assert " can't be; give " in refusal([flag, value])


def test_a_current_directory_that_was_deleted_is_told(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    assert "the current directory was deleted" in refusal([])
