"""A made-up tree of control groups, and this process's membership in it."""

from pathlib import Path


class Cgroups:
    """The tree in a test's directory; nothing is in it at first, and the process in no group."""

    def __init__(self, root: Path) -> None:
        self.root = root / "cgroup"
        self.membership = root / "membership"

    def join(self, *lines: str) -> None:
        self.membership.write_text("".join(f"{line}\n" for line in lines))

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")
