"""What a run would be, without running it: blocks, memory, predicted rates, and alternatives.

python launch/plan.py --workers 4                      the flags of launch/pipeline.py
python launch/plan.py --workers 4 --cuts profiled      with times measured on this machine
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # our packages come first, and the files beside this one are none
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.config import RunConfig
from launch.config_file import parse
from launch.environment import Environment
from launch.planning.report import render_plan
from launch.resolve import resolve
from launch.shown_progress import showing
from runtime.coordinator.live_view import make_console
from runtime.output import protect_output
from runtime.program import REFUSED

NAME = "plan"
ANY_NUMBER = 1 << 20  # of GPUs


def main(argv: list[str]) -> int:
    """Print the plan and return the exit code."""
    protect_output()
    try:
        config = parse(argv, prog=NAME, about="Say what a run would be, without running it.")
        environment, may_time = _environment(config)
        resolved = resolve(
            config, environment=environment, tell=showing(NAME), times_block_0=may_time
        )
    except ValueError as error:
        print(f"{NAME}: error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"{NAME}: stopped by SIGINT", file=sys.stderr)
        return 130
    render_plan(resolved, make_console(), environment=environment)
    return 0


def _environment(config: RunConfig) -> tuple[Environment, bool]:
    """What is here, but for its memory, which a plan may exceed, and whether something may be timed
    here. Without a GPU a plan for GPUs is made as if there were enough, and nothing is timed."""
    environment = replace(Environment.from_process(), memory_bytes=math.inf)
    if config.device != "cuda" or environment.gpus or config.cuts == "profiled":
        return environment, True
    remark = "no GPU is seen here: this is planned as if each worker had one"
    remarks = (*environment.remarks, remark)
    imagined = replace(environment, gpus=ANY_NUMBER, has_nccl=True, remarks=remarks)
    return imagined, False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
