"""The sequential reference as a program: the pipeline's flags, one process, one loop.

python launch/sequential.py --workers 4        as cut for four, bit-identical to the pipeline
python launch/sequential.py --method e2e       end to end, one loss at the top: the baseline
"""

import logging
import sys
from pathlib import Path

if __name__ == "__main__":  # our packages come first, and the files beside this one are none
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from launch.config import refuse_free_ties
from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.one_process import run
from launch.program import command_time
from launch.resolve import resolve
from launch.shown_progress import showing
from models.bad_numbers import BadNumbers
from models.unsaveable import Unsaveable
from runtime.output import protect_output
from runtime.program import REFUSED
from runtime.records.recorder import NotWritten, Recorder
from runtime.records.run_dir import RunDir

NAME = "sequential"
log = logging.getLogger(NAME)


def main(argv: list[str]) -> int:
    """Train and return the exit code."""
    protect_output(log.warning)
    started_t = command_time()
    try:
        config = parse(
            argv, prog=NAME, about="Train as the pipeline does, in one process and one loop."
        )
        refuse_free_ties(config)
        environment = Environment.from_process()
        job = LocalLearningJob(resolve(config, environment=environment, tell=showing(NAME)))
        name = f"{NAME}-{job.model_name}"
        run_dir = RunDir.create(config.run_dir, name=name, restart=config.fresh)
        if config.fresh:
            run_dir.clear()
        run_dir.write_config(job.config_toml, given=job.given_toml)
    except ValueError as error:
        print(f"{NAME}: error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"{NAME}: stopped by SIGINT", file=sys.stderr)
        return 130
    recorder = Recorder(run_dir)
    try:
        run(job, recorder, started_t)
    except (BadNumbers, NotWritten, Unsaveable, torch.OutOfMemoryError) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{NAME}: stopped by SIGINT", file=sys.stderr)
        return 130
    finally:
        recorder.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
