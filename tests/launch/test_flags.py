"""Flags are read into what a program asks for, and what is wrong with them is said in a line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from cyclopts import Parameter

from launch.config import ConfigError
from launch.flags import read_flags


@dataclass(frozen=True, kw_only=True)
class Flags:
    colour: Literal["red", "blue"] = "red"
    """The colour of all things."""
    num: int = 3
    to: Path | None = None

    def __post_init__(self) -> None:
        if self.num < 0:
            raise ConfigError(f"num {self.num} is not allowed; give 0 or more")


def pair(
    place: Path, /, *, flags: Annotated[Flags, Parameter(name="*")] = Flags()
) -> tuple[Path, Flags]:
    return place, flags


def read(*argv: str) -> tuple[Path, Flags]:
    return read_flags(pair, argv, prog="test", about="About the test.")


def test_what_is_not_given_has_its_default():
    assert read("here") == (Path("here"), Flags())
    assert read("here", "--num", "4", "--colour=blue")[1] == Flags(num=4, colour="blue")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "PLACE"),
        (["here", "there"], "'there' is not understood; flags begin with --"),
        (["here", "--colour", "green"], "green"),
        (["here", "--num", "1.5"], "'1.5' is not a whole number"),
        (["here", "--to", ""], "the path is empty; was a variable not set?"),
        (["here", "--num", "-1"], "num -1 is not allowed; give 0 or more"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(argv, told):
    with pytest.raises(ConfigError) as refusal:
        read(*argv)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_help_prints_the_docstrings_and_ends_well(capsys):
    with pytest.raises(SystemExit) as end:
        read("--help")
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "About the test." in printed
    assert "The colour of all things." in printed
