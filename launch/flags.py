"""Reads a program's flags from the command line, and says in one line what is wrong with them.

Owns the reader and its words. Knows nothing of which flags there are. Must not import torch, zmq
or scikit-learn: light processes read flags.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import cyclopts
from cyclopts import App, Parameter, Token
from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

from launch.config import NONE, ConfigError, to_whole

T = TypeVar("T")


def read_flags(
    make: Callable[..., T],
    argv: Sequence[str],
    *,
    prog: str,
    about: str,
    config: Callable[..., None] | None = None,
) -> T:
    """Call `make` with what was given, and return what it returns.

    Its parameters are the flags; the docstrings of their fields are what `--help` prints, which
    exits with 0; `about` heads it. `config` is a hook of cyclopts that fills in what the flags left
    open. Raises ConfigError for what is no flag, or no value of one; its message is one sentence or
    two, meant to be printed as it is.
    """
    app = App(
        name=prog,
        help=about,
        help_flags=["--help"],
        version_flags=[],
        config=config,
        default_parameter=Parameter(converter=_convert, negative=""),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    app.default(make)
    try:
        made: T | None = app(list(argv))
    except CycloptsError as error:
        raise ConfigError(_readable(error)) from error
    if made is None:  # the help was printed
        raise SystemExit(0)
    return made


def _convert(type_: type, tokens: Sequence[Token]) -> Any:
    types = type_, *get_args(type_)
    if NoneType in types and not {int, float}.isdisjoint(types) and tokens[0].value == NONE:
        return None
    if int in types:
        return to_whole(tokens[0].value, tokens[0].source)
    if Path in types and not tokens[0].value:
        raise ValueError("the path is empty; was a variable not set?")
    return cyclopts.convert(type_, tokens)


def _readable(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        tokens = " ".join(error.unused_tokens or ())
        return f"{tokens!r} is not understood; flags begin with --, and --help lists them"
    text = " ".join(str(error).split())
    return text if text.endswith("?") else f"{text.rstrip('.')}; see --help"
