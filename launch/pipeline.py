"""The main job: every local block in its own worker process.

torchrun --nproc_per_node=4 launch/pipeline.py
python launch/pipeline.py --workers 4
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # our packages come first, and the files beside this one are none
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.bind_address import bind_address
from launch.config import ConfigError, HostError
from launch.config_file import parse
from launch.job_secret import job_secret
from launch.launcher import TORCHRUN_ID, Launcher
from launch.program import checkpoint_place, make_program
from runtime.keeper.keeper import Keeper
from runtime.output import protect_output
from runtime.program import REFUSED

NAME = "pipeline"
OTHERS_WAIT_S = 5.0  # so that torchrun does not end the rank that speaks before it has


def main(argv: list[str]) -> int:
    """Run this rank's part of the job and return the exit code."""
    protect_output()
    try:
        launcher = Launcher.from_environ()
        config = parse(argv, prog=NAME)
        program = make_program(config, name=NAME, secret=job_secret(config, launcher))
    except ConfigError as error:
        return refuse(error)
    member = None if launcher is None else launcher.member()
    try:
        address = bind_address(config.bind, launcher, say=say if speaks(launcher) else unheard)
        program = replace(program, checkpoint_dir=checkpoint_place(config))
    except HostError as error:
        code = refuse(error)
        if member is not None:
            Keeper(program, member=member).withdraw(str(error))
        return code
    return Keeper(program, member=member, address=address).run()


def speaks(launcher: Launcher | None) -> bool:
    """Whether this rank speaks for its host."""
    return launcher is None or launcher.local_rank in (None, 0)


def unheard(text: str) -> None:
    """Another rank of this host says it."""
    del text


def say(text: str) -> None:
    """Print a line to the user."""
    print(f"{NAME}: {text}", file=sys.stderr, flush=True)


def refuse(error: ConfigError) -> int:
    """Say what is wrong with what this rank was given; under torchrun one rank of a host speaks for
    all, which were given the same."""
    if TORCHRUN_ID not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0":
        say(f"error: {error}")
    else:
        time.sleep(OTHERS_WAIT_S)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
