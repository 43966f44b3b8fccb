"""One real run of slept blocks, by itself: prints nothing but what the runtime does.

python -m benchmarks.scale.slept_run CONFIG_JSON RUN_DIR [WAN_CONTROL]

With the control address of a benchmarks.wan.proxy, every edge is dialled through it.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial

from benchmarks.wan.far_edges import lead_through
from runtime.keeper.keeper import Keeper
from runtime.program import Program
from runtime.testing.slept import SleptConfig, SleptJob, load_slept_job
from runtime.trust.secret import users_secret


def load_far_job(control: str, text: str) -> SleptJob:
    """The job, in a process that dials its neighbours through the proxy at `control`."""
    lead_through(control)
    return load_slept_job(text)


def main(argv: list[str]) -> int:
    """Run the job of `SleptConfig` fields given as JSON into a directory."""
    config = SleptConfig(**json.loads(argv[0]))
    load: Callable[[str], SleptJob] = load_slept_job
    if len(argv) > 2:
        load = partial(load_far_job, argv[2])
    return run(config, argv[1], load)


def run(config: SleptConfig, run_dir: str, load: Callable[[str], SleptJob]) -> int:
    """Run the job that `load` makes of the config's text."""
    program = Program(
        resolve=config.resolve,
        load=load,
        preload=(
            "runtime.coordinator.coordinator",
            "runtime.worker.process",
            "runtime.testing.slept",
        ),
        run_dir=run_dir,
        name="slept",
        run_name="slept",
        started_t=time.time(),
        secret=users_secret(),
    )
    return Keeper(program).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
