"""What every benchmark stands on: headers, files that grow, medians."""

import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
from cyclopts import Parameter

from benchmarks.harness import Results, Spread, header, median_and_spread, run_command
from launch.config import ConfigError


def test_header_says_where_and_when():
    assert header().keys() == {
        *("commit", "date", "machine", "bits", "cores", "python", "torch", "load"),
    }
    assert all(header().values())


def test_results_are_read_back_in_order(tmp_path):
    results = Results(tmp_path / "new" / "a.jsonl")
    assert results.read() == []
    results.append({"a": 1})
    results.append({"b": [2.5]})
    assert Results(results.path).read() == [{"a": 1}, {"b": [2.5]}]


def test_line_cut_off_by_a_crash_is_removed_and_written_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2, "b')
    results = Results(path)
    results.append({"a": 2})
    assert results.read() == [{"a": 1}, {"a": 2}]


def test_median_and_spread():
    assert median_and_spread([3.0, 1.0, 2.0]) == Spread(median=2.0, lowest=1.0, highest=3.0)
    assert median_and_spread([1.0, 2.0]).median == 1.5
    with pytest.raises(ValueError, match="at least once"):
        median_and_spread([])


# The command line --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    steps: int = 3

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps; give at least 1")


@pytest.mark.parametrize(
    ("flag", "told"),
    [("--steps=0", "0 steps; give at least 1"), ("--steps=x", '"x"'), ("--stops=1", "--stops")],
)
def test_wrong_flag_ends_in_one_line_and_code_2(flag, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/there/links.py", flag])
    measured = []

    def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
        measured.append(options)

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("links: error: ")
    assert told in err
    assert not measured


def test_folder_that_was_started_is_named_not_its_main(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/there/links/__main__.py", "--steps=0"])

    def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
        raise AssertionError("a wrong flag is told before anything is measured")

    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err.startswith("links: error: ")


def test_failure_while_measuring_is_no_wrong_flag(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["links.py", "--steps=4"])

    def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
        raise ValueError(f"measured {options.steps}")

    with pytest.raises(ValueError, match="measured 4"):
        run_command(main)


def test_wrong_setting_that_a_run_would_meet_is_a_wrong_flag(monkeypatch, capsys, tmp_path):
    """A misspelt --model, or a folder as --json, ended in a traceback."""
    monkeypatch.setattr(sys, "argv", ["links.py", "--steps=4"])

    def misspelt(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
        raise ConfigError("no model named 'resnet81'")

    def folder(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
        Results(tmp_path)

    for main, told in ((misspelt, "no model named"), (folder, "is a directory; give another")):
        with pytest.raises(SystemExit) as ended:
            run_command(main)
        assert ended.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("links: error: ")
        assert told in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["precious text", '{"a":', '{\n "a": 1\n}', "[1]\n", "a\nb"])
def test_file_that_holds_no_records_is_left_as_it_is(text, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no records; give another file"):
        Results(path)
    assert path.read_text() == text
