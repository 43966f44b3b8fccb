"""What has fired of a run's faults: one file, to which every process of the run appends.

Owns faults.jsonl. Imports the standard library only: keepers write here too.
"""

import json
import os
import time
from pathlib import Path


class FaultLog:
    """What has fired in this run; every process of it appends to the same file."""

    def __init__(self, run_dir: Path, *, generation: int) -> None:
        self._path = run_dir / "faults.jsonl"
        self._generation = generation
        text = self._path.read_text() if self._path.exists() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        self._fired = {json.loads(line)["fault"] for line in whole}

    def has_fired(self, name: str) -> bool:
        """Whether a fault had fired when this process began, or has in it."""
        return name in self._fired

    def claim(self, name: str) -> bool:
        """Note that a fault fires now; False if it has fired before."""
        if name in self._fired:
            return False
        self._fired.add(name)
        row = {
            "fault": name,
            "t": time.time(),
            "pid": os.getpid(),
            "generation": self._generation,
        }
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return True
