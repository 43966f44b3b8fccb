"""The main job with every edge through a wide-area link; prints what the main job does.

python -m benchmarks.wan.pipeline_far WAN_CONTROL FLAGS...
"""

import sys
from dataclasses import replace
from functools import partial

from benchmarks.wan.far_edges import lead_through
from launch.config import RunConfig
from launch.config_file import parse
from launch.job import LocalLearningJob
from launch.program import load_job, make_program
from runtime.keeper.keeper import Keeper
from runtime.trust.secret import users_secret


def load_far_job(control: str, config: RunConfig, text: str) -> LocalLearningJob:
    """The job, in a process that dials its neighbours through the proxy at `control`."""
    lead_through(control)
    return load_job(config, text)


def main(argv: list[str]) -> int:
    """Run the main job of these flags."""
    config = parse(argv[1:], prog="pipeline")
    program = make_program(config, name="pipeline", secret=users_secret())
    return Keeper(replace(program, load=partial(load_far_job, argv[0], config))).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
