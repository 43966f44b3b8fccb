"""The core is pure: it imports a few modules of the standard library, and itself."""

import ast
from pathlib import Path

import runtime.core

ALLOWED = {"__future__", "bisect", "collections", "dataclasses", "enum"}
ALLOWED |= {"itertools", "math", "types", "typing"}


def imported(path: Path) -> set[str]:
    """All that a file imports, by full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            found.add(node.module or "")
    return found


def test_core_imports_what_is_on_the_list_and_itself():
    """An allow-list, since one of what is forbidden forgets the next clock or socket."""
    files = list(Path(runtime.core.__path__[0]).glob("*.py"))
    assert len(files) > 10
    for path in files:
        others = {name for name in imported(path) if not name.startswith("runtime.core")}
        assert {name.partition(".")[0] for name in others} <= ALLOWED, path.name
