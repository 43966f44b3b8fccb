"""The main job with every edge through a wide-area link; prints what the main job does.

python -m benchmarks.alternatives.pipeline_far WAN_CONTROL FLAGS...
"""

import sys
from dataclasses import replace
from functools import partial

from benchmarks.wan.far_edges import lead_through
from launch.config_file import parse
from launch.job import LocalLearningJob
from launch.program import load_job, make_program
from runtime.keeper.keeper import Keeper


def load_far_job(control: str, text: str) -> LocalLearningJob:
    """The job, in a process that dials its neighbours through the proxy at `control`."""
    lead_through(control)
    return load_job(text)


def main(argv: list[str]) -> int:
    """Run the main job of these flags."""
    program = make_program(parse(argv[1:], prog="pipeline"), name="pipeline")
    return Keeper(replace(program, load=partial(load_far_job, argv[0])), rank=None).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
