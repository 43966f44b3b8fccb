"""Memory that outlives a worker, and the page on which it and its keeper tell each other things."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from runtime.state.status_page import PAGE_BYTES, Field, OwnedMemory, Page

WRITES_AND_DIES = """
import os, signal, sys
from runtime.state.status_page import Page, Field
page = Page(sys.argv[1])
page[Field.STEP] = 41
page[Field.CHECKPOINT] = 2**40
os.kill(os.getpid(), signal.SIGKILL)
"""


def open_files() -> set[str]:
    return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()}


def test_page_outlives_the_process_that_wrote_it(memory):
    done = subprocess.run(
        [sys.executable, "-c", WRITES_AND_DIES, memory.paths.page], timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (memory.page[Field.STEP], memory.page[Field.CHECKPOINT]) == (41, 2**40)
    assert memory.page[Field.TURNS] == 0


def test_page_is_seen_by_both_ends(memory):
    theirs = Page(memory.paths.page)
    theirs[Field.TURNS] += 3
    memory.page[Field.STOP_WANTED] = 1
    assert (memory.page[Field.TURNS], theirs[Field.STOP_WANTED]) == (3, 1)
    theirs.close()
    assert memory.page[Field.TURNS] == 3


def test_fields_have_places_of_their_own_on_the_page(memory):
    for word in Field:
        memory.page[word] = -1 - word
    assert [memory.page[word] for word in Field] == [-1 - word for word in Field]
    assert 8 * len(Field) <= PAGE_BYTES


def test_memory_parts_are_files_of_their_own(memory):
    paths = memory.paths
    files = [paths.page, paths.messages, paths.live, paths.snapshot, paths.checkpoint]
    assert len({Path(path).stat().st_ino for path in files}) == 5
    assert [Path(path).stat().st_size for path in files] == [PAGE_BYTES, 0, 0, 0, 0]


def test_closing_leaves_nothing_open():
    before = open_files()
    memory = OwnedMemory("closing")
    assert len(open_files() - before) == 5
    memory.close()
    assert open_files() == before


def test_page_stays_with_a_worker_when_the_keeper_lets_go():
    memory = OwnedMemory("left")
    memory.page[Field.STEP] = 7
    theirs = Page(memory.paths.page)
    memory.close()
    assert theirs[Field.STEP] == 7
    theirs.close()
