"""Imported by the fork server when it starts: makes it die with its keeper.

Its process group is its own, so that a signal to the keeper's group (Ctrl-C, a launcher's
SIGTERM) reaches the keeper alone, which decides what becomes of the job.
"""

import os

from runtime.lifetime import die_with_parent

die_with_parent()
os.setpgid(0, 0)
