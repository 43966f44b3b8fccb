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

from launch.config import ROLES, RULES, Role, RunConfig, kebab, show

HEAD = """\
# Configuration

Each key is a flag (`--batch-size 32`) and a key of the TOML file that `--config` names
(`batch-size = 32`). Flags win over the file; an unknown key is an error. Bad input ends the program
with exit code 2 and one message: the value and the remedy. If the default is "–", the program
chooses, or the key is off; `none` in place of a number, of cuts or of an overlap says so again
(`--image-size none`) if the file has one.

Each run leaves two such files. `given.toml` holds what you gave, but for keys of the role `place`;
with it, `--config` takes more flags and resolves anew. `config.toml` holds what that resolved to;
with it, `--config` repeats the run exactly, and takes only flags of the roles `running` and
`place`. A key's role also says what becomes of another value when a run is resumed:

| role | a key of it |
|---|---|
"""
KEYS_HEAD = """\

| key | takes | default | what it does | role | its check asks you to |
|---|---|---|---|---|---|
"""
FOOT = """\

`max-staleness` needs `free-ties`, and `lag` can't be with it.
[fault-tolerance.md](fault-tolerance.md) lists the kinds of `faults`. Made from `launch/config.py`
by `python -m launch.configuration_page docs/configuration.md`: edit the docstrings there.
"""
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "nothing (in a file `true`)"}


def page() -> str:
    """The whole page, in Markdown."""
    types, docs = get_type_hints(RunConfig), _docstrings()
    lines = [f"| `{role.name.lower()}` | {role.value} |\n" for role in Role] + [KEYS_HEAD]
    for field in fields(RunConfig):
        remedies = [remedy for name, _, remedy in RULES if name == field.name]
        takes, role = _values(types[field.name]), ROLES[field.name].name.lower()
        start = f"`{kebab(field.name)}`", takes, _shown(field.default)
        cells = *start, docs[field.name], role, "; ".join(remedies)
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
        (kind, *_) = get_args(type_)
        if get_origin(kind) is Literal:
            return f"{_values(kind)}: one, or one per edge"
        whole = kind is not float
        return "whole numbers, such as `1,2`" if whole else "numbers, such as `1,.5`"
    if isinstance(type_, type):
        return KINDS.get(type_, "a path")
    return " or ".join(_values(part) for part in get_args(type_) if part is not NoneType)


def _shown(default: object) -> str:
    if default is None or default is False or default == "":
        return "–"
    return f"`{show(default)}`"


if __name__ == "__main__":
    write = Path(sys.argv[1]).write_bytes if sys.argv[1:] else sys.stdout.buffer.write
    write(page().encode())
