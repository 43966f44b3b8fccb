"""A process is taken apart by what its pages are for, and what its keeper holds counts for it."""

import mmap
import os
from pathlib import Path

from benchmarks.memory.watch import LIBRARIES, OWNERS, Look, _held, blocks_of, taken_apart

SMAPS = """\
55e0-55f0 r-xp 00000000 fe:00 393 /usr/bin/python3.11
Rss:                 900 kB
Pss:                  90 kB
Pss_Dirty:             7 kB
VmFlags: rd ex mr mw me
7f00-7f10 rw-p 00000000 00:00 0
Pss:                  20 kB
7f10-7f20 rw-p 00000000 00:00 0 [heap]
Pss:                   3 kB
7f20-7f30 rw-s 00000000 00:01 42 /memfd:loco-3-live (deleted)
Pss:                 400 kB
7f30-7f40 rw-s 00000000 00:01 42 /memfd:loco-3-messages (deleted)
Pss:                  50 kB
7f40-7f50 r--s 00000000 00:01 42 /memfd:loco-2-messages (deleted)
Pss:                   5 kB
7f50-7f60 rw-s 00000000 00:01 42 /memfd:loco-3-page (deleted)
Pss:                   4 kB
7f60-7f70 r--s 00000000 00:01 42 /memfd:loco-3-snapshot (deleted)
Pss:                 600 kB
"""


def test_pages_are_told_apart_by_what_they_are_for():
    """A snapshot that is mapped for a moment is none of them: its keeper holds it anyway."""
    sizes = {"private": 23, "state": 400, "messages": 55, "libraries": 94}
    expected = dict.fromkeys(OWNERS, 0) | {owner: 1024 * kb for owner, kb in sizes.items()}
    assert taken_apart(SMAPS) == expected


def test_all_of_a_real_process_is_found():
    memory = mmap.mmap(-1, 1 << 22)
    memory.write(b"x" * (1 << 22))
    sizes = taken_apart(Path("/proc/self/smaps").read_text())
    assert sizes["private"] > 1 << 22
    assert sizes[LIBRARIES] > 1 << 16
    memory.close()


def test_files_that_nobody_maps_are_found_at_their_keeper():
    fds = [os.memfd_create(f"loco-{k}-{part}") for k in (0, 12) for part in ("snapshot", "live")]
    for fd in fds:
        os.pwrite(fd, bytes(1 << 20), 0)
    assert _held(os.getpid()) == {k: {"snapshot": 1 << 20} for k in (0, 12)}
    for fd in fds:
        os.close(fd)


def test_what_is_held_for_a_block_counts_with_its_process(tmp_path):
    lines = ['{"pid": 7, "block": 1, "step": 0}', '{"event": "note"}', '{"pid": 8, "block": 0}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    look = Look({7: {"private": 5, "snapshot": 0}, 9: {"private": 6}}, {1: {"snapshot": 3}})
    assert look.of_blocks(blocks_of(tmp_path)) == {1: {"private": 5, "snapshot": 3}}
