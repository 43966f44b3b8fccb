"""What a user may say about a run, what he is told when he can't, and the files a run leaves."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from launch.config import ROLES, ConfigError, ResolvedConfig, Role, RunConfig, kebab
from launch.config_file import from_toml, parse, to_toml

GIVEN = RunConfig(workers=2, epochs=12, lr=1 / 3, cuts="auto", tie="gradient")
DECIDED = {
    "workers": 2,
    "cuts": (0, 2),
    "overlap": (1,),
    "lag": 1,
    "steps": 264,
    "threads": 1,
    "window": 2,
    "snapshot_every": 4,
    "retain_mb": 1024,
    "checkpoint_every": 22,
    "device": "cpu",
    "link": "shm",
}
RESOLVED = ResolvedConfig(**(vars(GIVEN) | DECIDED), given=GIVEN)


def write(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return ["--config", str(path)]


def refusal(argv: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(argv, prog="pipeline.py")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_come_without_an_argument():
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


def test_flag_wins_over_the_file(tmp_path):
    file = write(tmp_path / "run.toml", "lag = 4\nalpha = 0.5\ncuts = [0, 2]\ndecoder-depth = [2]")
    config = parse(["--lag", "3", *file], prog="pipeline.py")
    assert config == RunConfig(lag=3, alpha=0.5, cuts=(0, 2), decoder_depth=(2,))
    assert config.config == tmp_path / "run.toml"


def test_flag_takes_back_a_number_that_the_file_has(tmp_path):
    """A folder's image-size in a file could not be had off for other data."""
    argv = write(tmp_path / "a.toml", "image-size = 64\ngrad-clip = 1.5\nlag = 2\nwindow = 4\n")
    flags = ["--image-size", "none", "--grad-clip=none"]
    assert parse([*argv, *flags], prog="pipeline.py") == RunConfig(lag=2, window=4)
    assert "'none' is not a whole number" in refusal([*argv, "--batch-size", "none"])
    argv = write(tmp_path / "b.toml", "lag = 2\noverlap = 1\ncuts = [0, 2]\n")
    flags = ["--lag", "none", "--overlap", "none", "--cuts", "none"]
    assert parse([*argv, *flags], prog="pipeline.py") == RunConfig()
    assert parse(["--run-dir", "none"], prog="pipeline.py").run_dir == Path("none")


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
        ("--workers 1.5", "Invalid value for --workers: '1.5' is not a whole number; see --help"),
        ("--seed 1.5", "Invalid value for --seed: '1.5' is not a whole number; see --help"),
        ("--lag 1 --lag 2", "Parameter --lag specified multiple times; see --help"),
        ("--lr x", 'Invalid value for --lr: unable to convert "x" into float; see --help'),
        (
            "--tie tight",
            'Invalid value "tight" for --tie. Choose from: "gradient", "elastic", "follow", '
            '"none"; see --help',
        ),
        (
            "--cuts 0,x",
            "Invalid value for --cuts: 'x' is not a whole number; give first units, such as"
            " 0,1,2,3, auto or profiled; see --help",
        ),
        ("digits", "'digits' is not understood; flags begin with --, and --help lists them"),
    ],
)
def test_flag_that_is_not_understood_is_named(argv, message):
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
def test_file_that_is_not_understood_is_named(tmp_path, text, message):
    refused = refusal(write(tmp_path / "run.toml", text))
    assert refused.removeprefix(f"config file '{tmp_path}/run.toml'").strip() == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lag = -1", "lag -1 is not allowed; give 0 or more steps; 0 ties neighbours step by step"),
        (
            "faults = 'kill:1'",
            "fault 'kill:1' is malformed; write kill for a block, as in kill:1@40",
        ),
        ("seed = true", "Invalid value for [seed]: 'True' is not a whole number ({}); see --help"),
        ("cuts = [0, 1.5]", "Invalid value for [cuts]: '1.5' is not a whole number ({}); give "),
    ],
)
def test_value_in_a_file_that_is_not_allowed_is_refused(tmp_path, text, message):
    file = write(tmp_path / "run.toml", text)
    assert refusal(file).startswith(message.format(file[1]))


def test_missing_file_is_refused(tmp_path):
    path = tmp_path / "none.toml"
    assert refusal(["--config", str(path)]) == (
        f"config file '{path}': no such file or directory; check the path"
    )


def test_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in refusal(["--config", str(path)])


def test_empty_path_is_no_directory():
    """--run-dir "$RUN", with RUN unset, wrote a run into the current directory."""
    assert "--run-dir: the path is empty; was a variable not set?" in refusal(["--run-dir", ""])


@pytest.mark.parametrize("text", ["", " ", ","])
def test_empty_overlap_is_no_run_of_one_block(text):
    """--overlap "$OVERLAP", with OVERLAP unset, trained one worker and said nothing."""
    assert refusal(["--overlap", text]) == (
        f"Invalid value for --overlap: {text.strip()!r} holds no number (was a variable not set?);"
        " give units, one number per edge, or stage; see --help"
    )


def test_empty_overlap_in_a_file_is_refused(tmp_path):
    assert refusal(write(tmp_path / "run.toml", "overlap = []")).startswith(
        "Invalid value for [overlap]: '' holds no number"
    )


@pytest.mark.parametrize("key", ["cuts", "decoder-depth", "lr-scale", "wire-precision"])
def test_no_other_list_may_be_empty(tmp_path, key):
    for argv in ([f"--{key}", ""], [f"--{key}", ","], write(tmp_path / "a.toml", f"{key} = []")):
        assert f"{key} '' is not allowed; " in refusal(argv)


def test_deleted_current_directory_is_told(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    assert "the current directory was deleted" in refusal([])


# The two files of a run -----------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Path:
    """The directory of a run."""
    (tmp_path / "given.toml").write_text(to_toml(GIVEN))
    (tmp_path / "config.toml").write_text(to_toml(RESOLVED))
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        RunConfig(),
        RunConfig(cuts="auto", max_memory_mb=300),
        RunConfig(workers=2, cuts=(0, 1), decoder_depth=(1, 0), lr=1 / 3, alpha=1e-9),
        RunConfig(model='odd "name"\\ [x]', tie="gradient", lag=0, window=9, device="cuda"),
        RunConfig(snapshot_every=2, retain_mb=7, checkpoint_every=9, hang_timeout_s=0.5),
        RunConfig(faults="slow:1@2x3+4, drop:0-1@7", max_worker_restarts=0, max_bad_steps=1),
        RunConfig(free_ties=True, max_staleness=3, trace=True),
        RunConfig(wire_precision=("exact", "bf16"), wire_ties=True),
    ],
)
def test_both_files_give_back_what_was_written(tmp_path, given):
    assert parse(write(tmp_path / "given.toml", to_toml(given)), prog="x") == given
    decided = DECIDED | {"lag": None if given.free_ties else 1}
    config = ResolvedConfig(
        **(vars(given) | decided), given=given, earlier_lengths=((44, 44), (88, 90))
    )
    for again in (
        parse(write(tmp_path / "config.toml", to_toml(config)), prog="x"),
        from_toml(to_toml(config)),
    ):
        assert again == config
        assert again.given == given


def test_given_toml_holds_what_was_given_alone(tmp_path):
    config = parse([*["--lag", "2", "--run-dir", "x", "--fresh", "--trace"]], prog="x")
    assert tomllib.loads(to_toml(config)) == {"lag": 2, "trace": True}


def test_given_toml_takes_any_flag_and_leaves_all_else_open(run):
    config = parse(["--config", str(run / "given.toml"), "--workers", "4"], prog="x")
    assert config == replace(GIVEN, workers=4)
    assert type(config) is RunConfig


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--epochs 60", {"epochs": 60, "steps": None}),
        ("--steps 60", {"epochs": 12, "steps": 60}),
        ("--lag 2", {"epochs": 3, "steps": 25, "lag": 2}),
    ],
)
def test_length_by_flag_replaces_that_of_the_file(tmp_path, flags, expected):
    """--epochs 60 with a file that had steps went unheard, for steps decide."""
    file = write(tmp_path / "run.toml", "epochs = 3\nsteps = 25")
    assert parse([*file, *flags.split()], prog="x") == RunConfig(**expected)


def test_config_toml_repeats_its_run_with_what_was_given(run):
    config = parse(["--config", str(run / "config.toml")], prog="x")
    assert config == RESOLVED
    assert to_toml(config) == to_toml(RESOLVED)


def test_config_toml_of_one_block_has_no_edge_and_repeats_it_too(tmp_path):
    given = RunConfig(workers=1)
    one = DECIDED | {"workers": 1, "cuts": (0,), "overlap": ()}
    config = ResolvedConfig(**(vars(given) | one), given=given)
    assert parse(write(tmp_path / "config.toml", to_toml(config)), prog="x") == config


def test_config_toml_takes_flags_of_how_it_is_run(run, tmp_path):
    flags = ["--link", "auto", "--trace", "--run-dir", str(tmp_path)]
    config = parse(["--config", str(run / "config.toml"), *flags], prog="x")
    assert config == replace(RESOLVED, link="auto", trace=True)
    assert config.given == replace(GIVEN, trace=True)
    assert config.run_dir == tmp_path


@pytest.mark.parametrize(
    "name", [n for n, r in ROLES.items() if r not in (Role.RUNNING, Role.PLACE)]
)
def test_config_toml_refuses_flags_that_change_the_result(run, name):
    value = [] if name == "free_ties" else [str(GIVEN_BY_FLAG.get(name, 1))]
    argv = ["--config", str(run / "config.toml"), f"--{kebab(name)}", *value]
    message = refusal(argv)
    assert message.startswith(f"--{kebab(name)} can't be given with '{run}/config.toml'")
    assert message.endswith(f"; to change that, give --config {run}/given.toml")


GIVEN_BY_FLAG = {"method": "e2e", "tie": "none", "schedule": "constant", "device": "cuda"}
GIVEN_BY_FLAG |= {"cuts": "0,1", "batch_size": 8}


def test_remedy_without_given_toml_is_the_table(run):
    (run / "given.toml").unlink()
    argv = ["--trace", "--cuts", "0,1"]
    assert refusal(["--config", str(run / "config.toml"), *argv]) == (
        f"--cuts can't be given with '{run}/config.toml', which repeats its run exactly (cuts 0,2);"
        " to change that, give --config a file of what its table [given] holds"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[given]", "(missing 11 required keyword-only arguments: 'workers',"),
        (
            to_toml(RESOLVED).replace("threads = 1\n", ""),
            "(missing 1 required keyword-only argument: 'threads')",
        ),
        (to_toml(RESOLVED).replace("lr =", "rl ="), "(got an unexpected keyword argument 'rl')"),
        (to_toml(RESOLVED) + "rl = 1", "(got an unexpected keyword argument 'rl')"),
        (to_toml(RESOLVED).replace("lag = 1", 'lag = "free"'), "'>=' not supported"),
        ("given = 1", "no attribute"),
    ],
)
def test_config_toml_that_no_run_wrote_is_refused(tmp_path, text, reason):
    path = tmp_path / "config.toml"
    message = refusal(write(path, text))
    assert message.startswith(f"config file '{path}': no run of this version wrote it (")
    assert reason in message
    assert message.endswith("); give its given.toml")
    with pytest.raises(ConfigError, match="give another --run-dir, or --fresh"):
        from_toml(text)


def test_wrong_value_in_a_config_toml_is_named(tmp_path):
    text = to_toml(RESOLVED).replace('method = "local"', 'method = "lcal"')
    assert 'Invalid value "lcal" for [method]' in refusal(write(tmp_path / "config.toml", text))
