"""Prints docs/configuration.md: every key of a run's config, as launch.config defines it.

Owns the page's layout. The table is read from RunConfig: its fields, their types, defaults and
docstrings, and what the checks ask for.

    python -m launch.configuration_page [PATH]
"""

import ast
import inspect
import sys
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from launch.config import _RULES, RunConfig

HEAD = """\
# Configuration

Each key is a flag (`--batch-size 32`) and a key of the TOML file that `--config` names
(`batch-size = 32`). Flags win over the file; an unknown key is an error. Bad input ends the program
with exit code 2 and one message: the value and the remedy. Each run saves its resolved config as
`config.toml`. If the default is "–", the program chooses, or the key is off.

| key | takes | default | what it does | its check asks you to |
|---|---|---|---|---|
"""
FOOT = """\

`max-staleness` needs `free-ties`, and `lag` can't be with it.
[fault-tolerance.md](fault-tolerance.md) lists the kinds of `faults`. Made from `launch/config.py`
by `python -m launch.configuration_page docs/configuration.md`: edit the docstrings there.
"""
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "nothing (in a file `true`)"}


def page() -> str:
    """The whole page, in Markdown."""
    types, docs, lines = get_type_hints(RunConfig), _docstrings(), []
    for field in fields(RunConfig):
        remedies = [remedy for name, _, remedy in _RULES if name == field.name]
        key, value = field.name.replace("_", "-"), _values(types[field.name])
        cells = f"`{key}`", value, _shown(field.default), docs[field.name], "; ".join(remedies)
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines) + FOOT


def _docstrings() -> dict[str, str]:
    """The string below each field, which a dataclass itself does not retain."""
    (definition,) = ast.parse(inspect.getsource(RunConfig)).body
    assert isinstance(definition, ast.ClassDef)
    pairs = zip(definition.body, definition.body[1:], strict=False)
    return {
        ast.unparse(field.target): " ".join(str(ast.literal_eval(below.value)).split())
        for field, below in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def _values(type_: Any) -> str:
    if get_origin(type_) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(type_))
    if get_origin(type_) is tuple:
        return "whole numbers, such as `1,2`"
    if isinstance(type_, type):
        return KINDS.get(type_, "a path")
    return " or ".join(_values(part) for part in get_args(type_) if part is not NoneType)


def _shown(default: object) -> str:
    if default is None or default is False or default == "":
        return "–"
    return f"`{','.join(map(str, default)) if isinstance(default, tuple) else default}`"


if __name__ == "__main__":
    write = Path(sys.argv[1]).write_bytes if sys.argv[1:] else sys.stdout.buffer.write
    write(page().encode())
