"""The bytes of files in binary layouts, and what is said of a file that is cut short.

Owns reading and sizes. Knows nothing of what the bytes mean.
"""

import stat
from pathlib import Path

import numpy as np

from models.paths import reading


def num_records(file: Path, record_bytes: int) -> int:
    """How many records of a size a file holds. Raises ValueError unless they are whole."""
    with reading(file):
        size = file.stat().st_size
    if size == 0 or size % record_bytes:
        raise ValueError(
            f"{file} has {size:,} bytes, which are not whole records of {record_bytes:,}: it is cut"
            " short, or another kind of file; unpack or download it anew"
        )
    return size // record_bytes


def read_records(file: Path, record_bytes: int, first: int = 0, count: int = -1) -> np.ndarray:
    """Records (N, record_bytes) uint8, all from `first` on, or `count` of them."""
    num_bytes = -1 if count < 0 else count * record_bytes
    with reading(file):
        flat = np.fromfile(file, dtype=np.uint8, count=num_bytes, offset=first * record_bytes)
    return flat.reshape(-1, record_bytes)


def fingerprint(file: Path, root: Path) -> str:
    """What changes if a file below `root` does: its path there, size and time of change. Raises
    ValueError for what is no plain file, such as a pipe, which would be waited for."""
    with reading(file):
        found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{file} is no plain file; take it out of the folder")
    return f"{file.relative_to(root)}\0{found.st_size}\0{found.st_mtime_ns}"
