"""Imported by the fork server behind all else: tells its keeper that it can fork now."""

import os
from pathlib import Path

from runtime.keeper.fork_server import READY
from runtime.keeper.in_fork_server import DIRECTORY

Path(DIRECTORY, READY).write_text(str(os.getpid()))
