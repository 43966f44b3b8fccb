"""Measure what a finished run has learned, from its saved weights and config alone.

python launch/evaluate.py RUN                                     as at the run's end
python launch/evaluate.py RUN --data synthetic:1x16x16 --units last   on other data
python launch/evaluate.py RUN --linear sgd --k 200 --temperature 0.1  as others publish
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":  # our packages come first, and the files beside this one are none
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cyclopts import Parameter
from rich.console import Console

from launch.evaluation import EvaluationFlags, measure, write
from launch.flags import read_flags
from runtime.coordinator.live_view import make_console
from runtime.output import protect_output
from runtime.program import REFUSED
from runtime.records.tables import evaluation_line, evaluation_table

NAME = "evaluate"
Flags = Annotated[EvaluationFlags, Parameter(name="*")]


def main(argv: list[str]) -> int:
    """Print the accuracy after each unit and return the exit code."""
    protect_output()
    console = make_console()
    try:
        about = __doc__.splitlines()[0]
        run, flags = read_flags(_given, argv, prog=NAME, about=about)
        records = measure(run, flags, partial(_show, console, []), partial(_note, console))
    except ValueError as error:
        print(f"{NAME}: error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"{NAME}: stopped by SIGINT", file=sys.stderr)
        return 130
    console.print()
    console.print(evaluation_line(records[0]), soft_wrap=True)
    console.print()
    console.print(evaluation_table(records))
    if flags.json is not None:
        try:
            write(records, flags.json)
        except OSError as error:
            reason = error.strerror or error
            print(f"{NAME}: {flags.json} can't be written: {reason}", file=sys.stderr)
            return 1
    return 0


def _given(
    run: Annotated[Path, Parameter(help="Directory of a finished run.")],
    /,
    *,
    flags: Flags = EvaluationFlags(),  # noqa: B008
) -> tuple[Path, EvaluationFlags]:
    return run, flags


def _show(console: Console, shown: list[str], phase: str, *, takes_s: float = 0.0) -> None:
    """Print a phase when it begins."""
    del takes_s
    if phase not in shown[-1:]:  # it goes on
        shown.append(phase)
        console.print(phase, soft_wrap=True)


def _note(console: Console, text: str) -> None:
    console.print(f"note: {text}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
