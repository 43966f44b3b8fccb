"""A run of slept blocks whose tcp edges admit everyone and sign nothing: what guarding is beside.

python -m benchmarks.security.unguarded_run CONFIG_JSON RUN_DIR
"""

import json
import sys

from benchmarks.scale.slept_run import run
from runtime.testing.slept import SleptConfig, SleptJob, load_slept_job
from runtime.worker.connect import Connector


def _never(address: str) -> bool:
    del address
    return False


def load_unguarded_job(text: str) -> SleptJob:
    """The job, in a process whose edges are guarded against damage alone."""
    Connector._on_network = staticmethod(_never)  # type: ignore[method-assign]
    return load_slept_job(text)


if __name__ == "__main__":
    sys.exit(run(SleptConfig(**json.loads(sys.argv[1])), sys.argv[2], load_unguarded_job))
