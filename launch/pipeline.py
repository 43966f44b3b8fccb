"""The main job: every local block in its own worker process.

torchrun --nproc_per_node=4 launch/pipeline.py
python launch/pipeline.py --workers 4
"""

import os
import sys
import time

from launch.config import ConfigError, parse
from launch.program import make_program
from runtime.keeper import Keeper
from runtime.program import REFUSED

NAME = "pipeline"
OTHERS_WAIT_S = 5.0  # so that torchrun does not end rank 0 before it has said what is wrong


def main(argv: list[str]) -> int:
    """Run this rank's part of the job and return the exit code."""
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    rank = int(os.environ.get("RANK", "0"))
    try:
        config = parse(argv, prog=NAME)
    except ConfigError as error:
        if rank == 0:
            print(f"{NAME}: error: {error}", file=sys.stderr)
        else:
            time.sleep(OTHERS_WAIT_S)
        return REFUSED
    program = make_program(config, name=NAME)
    return Keeper(program, rank=rank if under_torchrun else None).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
