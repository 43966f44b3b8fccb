"""What the processes of a run take while it runs, taken apart by what the pages are for.

Owns the looking, again and again, at /proc/PID/smaps. A page that several processes map counts for
each by its share (PSS), so one that two workers share counts once in their sum. What a keeper holds
for a worker that hardly ever maps it, its snapshot and its part of a checkpoint, counts for that
worker.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness import ROOT, RUN_TIMEOUT_S

LOOK_EVERY_S = 0.1
PRIVATE, LIBRARIES, MESSAGES = "private", "libraries", "messages"
STATE, SNAPSHOT, CHECKPOINT = "state", "snapshot", "checkpoint"
OWNERS = (PRIVATE, STATE, MESSAGES, SNAPSHOT, CHECKPOINT, LIBRARIES)
_OF_FILE = {"live": STATE, "messages": MESSAGES, "snapshot": SNAPSHOT, "checkpoint": CHECKPOINT}
_FILE = re.compile(r"/memfd:\w+-(?P<block>\d+)-(?P<part>\w+)")

Sizes = dict[str, int]  # bytes, by what they are for


@dataclass(frozen=True)
class Look:
    """At one moment: what each process takes, and what a keeper holds for each block."""

    processes: Mapping[int, Sizes]
    held: Mapping[int, Sizes]

    def of_blocks(self, blocks: Mapping[int, int]) -> dict[int, Sizes]:
        """What each block takes, if these are the blocks of processes."""
        return {
            blocks[pid]: sizes | self.held.get(blocks[pid], {})
            for pid, sizes in self.processes.items()
            if pid in blocks
        }


def watch(command: Sequence[str], run_dir: Path) -> list[dict[int, Sizes]]:
    """Run a program to its end; return what each of its blocks took, look by look. Raises
    RuntimeError if it fails, or lasts too long."""
    looks: list[Look] = []
    deadline_s = time.monotonic() + RUN_TIMEOUT_S
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and time.monotonic() < deadline_s:
                looks.append(_look(process.pid))
                time.sleep(LOOK_EVERY_S)
        finally:
            process.kill()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    blocks = blocks_of(run_dir)
    return [look.of_blocks(blocks) for look in looks]


def blocks_of(run_dir: Path) -> dict[int, int]:
    """The block that each process of a run had."""
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return {record["pid"]: record["block"] for record in records if "block" in record}


def _look(keeper: int) -> Look:
    try:
        children = psutil.Process(keeper).children(recursive=True)
        held = _held(keeper)
    except (psutil.NoSuchProcess, OSError):  # it has just ended
        return Look({}, {})
    processes = {}
    for pid in (keeper, *(child.pid for child in children)):
        try:
            processes[pid] = taken_apart(Path(f"/proc/{pid}/smaps").read_text())
        except OSError:  # likewise
            continue
    return Look(processes, held)


def taken_apart(smaps: str) -> Sizes:
    """The shares of pages that a process maps; but of what its keeper holds, see `_held`."""
    sizes = dict.fromkeys(OWNERS, 0)
    owner = PRIVATE
    for line in smaps.splitlines():
        if line.startswith("Pss:"):
            sizes[owner] += int(line.split()[1]) * 1024
        elif not line[0].isupper():  # the first line of a mapping, with its path last
            owner = _owner(line)
    return sizes | {SNAPSHOT: 0, CHECKPOINT: 0}


def _owner(mapping: str) -> str:
    *_, path = mapping.split(maxsplit=5)
    if (found := _FILE.search(path)) is not None:
        return _OF_FILE.get(found["part"], LIBRARIES)
    return LIBRARIES if path.startswith("/") else PRIVATE


def _held(keeper: int) -> dict[int, Sizes]:
    """What a keeper's files of snapshots and checkpoints take, whoever maps them."""
    held: dict[int, Sizes] = {}
    for file in Path(f"/proc/{keeper}/fd").iterdir():
        try:
            found, size = _FILE.search(os.readlink(file)), 512 * file.stat().st_blocks
        except FileNotFoundError:  # it was closed meanwhile
            continue
        if found is not None and (owner := _OF_FILE.get(found["part"])) in (SNAPSHOT, CHECKPOINT):
            held.setdefault(int(found["block"]), {})[owner] = size
    return held
