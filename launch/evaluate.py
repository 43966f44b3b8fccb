"""Repeat the evaluation of a finished run, from its saved weights and config alone.

python launch/evaluate.py runs/20260101-120000-resnet-small
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # our packages come first, and the files beside this one are none
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import safetensors
import safetensors.torch
from rich.console import Console

from launch.config import ConfigError
from launch.config_file import parse
from launch.environment import Environment
from launch.job import LocalLearningJob
from launch.resolve import resolve
from runtime.coordinator.live_view import make_console
from runtime.output import protect_output
from runtime.program import REFUSED
from runtime.records.tables import units_table

NAME = "evaluate"


def main(argv: list[str]) -> int:
    """Print the accuracy after every unit and return the exit code."""
    protect_output()
    console = make_console()
    parser = argparse.ArgumentParser(prog=NAME, description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="directory of a finished run")
    run: Path = parser.parse_args(argv).run
    try:
        job, path = _job_of(run), run / "weights.safetensors"
        if not path.is_file():
            raise ConfigError(f"{str(run)!r} has no weights.safetensors; give a finished run")
        weights = safetensors.torch.load_file(path)
        units = job.evaluate(weights, partial(_show, console, []))
    except (ValueError, safetensors.SafetensorError) as error:
        print(f"{NAME}: error: {error}", file=sys.stderr)
        return REFUSED
    console.print()
    console.print(units_table(units))
    return 0


def _show(console: Console, shown: list[str], phase: str, *, takes_s: float = 0.0) -> None:
    """Print a phase when it begins."""
    del takes_s
    if phase not in shown:
        shown.append(phase)
        console.print(phase, soft_wrap=True)


def _job_of(run: Path) -> LocalLearningJob:
    """The job of a run's resolved config, on this machine."""
    path = run / "config.toml"
    if not path.is_file():
        raise ConfigError(f"{str(run)!r} holds no config.toml; give the directory of a run")
    config = replace(parse(["--config", str(path)], prog=NAME), device="auto")
    return LocalLearningJob(resolve(config, environment=Environment.from_process()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
