"""Attacks a real run as strangers on the host and on the network would, each in a run of its own.

    python -m benchmarks.security                              all of them: about ten minutes
    python -m benchmarks.security --only result-null,hello
    python -m benchmarks.security --only million --frames 1000000 --json FILE
    python -m benchmarks.security --cost 5                     what being guarded costs, instead

Exits with 1 if any of them changed a result, ended or hung a job, cost a process its life or more
memory than it should, read what is private, slowed the run down, or could not be carried out; so
without root, which one of them takes.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.harness import Results, TextList, header, make_console, print_header
from benchmarks.security.catalogue import ATTACKS, Attack, Job, undisturbed
from benchmarks.security.cost import measure, show
from benchmarks.security.judge import judge
from benchmarks.security.report import HELD, NOT_MADE, WORKED, outcome, print_attacks
from benchmarks.security.run import Seen, run_attacked

REFERENCE_TIMEOUT_S = 180.0
NOT_ROOT = (
    "not root: strangers can't be other users, so rows 1, 3 and 8 show less; "
    "nor listen on a wire, so of row 9 replay is not made, and million has no recording"
)
PATIENCE, PATIENCE_S = 2.0, 10.0  # a run may take so many times the undisturbed one's time, and so


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to try."""

    only: TextList = ()
    """Attacks by name, such as result-null,hello; without it all."""
    frames: int = 1_000_000
    """Frames of all sorts that the attack "million" sends."""
    cost: int = 0
    """Measure instead what being guarded costs, in so many pairs of runs."""
    json: Path | None = None
    """File that gets a JSON line an attack, or a run."""


def mistake(options: Options) -> str | None:
    """What is wrong with the flags, if anything is."""
    names = [attack.name for attack in ATTACKS]
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        return f"no attack {', '.join(unknown)}; choose from {', '.join(names)}"
    if options.cost < 0:
        return f"--cost {options.cost} is no number of pairs; give at least 1"
    if options.frames < 1:
        return f"--frames {options.frames} sends nothing; give at least 1"
    return None


def chosen(options: Options) -> list[Attack]:
    """The attacks that are asked for, in their order."""
    return [attack for attack in ATTACKS if not options.only or attack.name in options.only]


class Undisturbed:
    """The runs that nobody meddles with: one for each job and length, made when first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runs: dict[tuple[Job, bool], Seen] = {}

    def earlier(self, job: Job) -> Path:
        """The file of what was recorded of the job."""
        return self._directory / f"earlier-{job.value}"

    def run(self, job: Job, *, is_long: bool) -> Seen:
        """What was seen of it. Raises RuntimeError if it fails though nobody meddles."""
        if (job, is_long) not in self._runs:
            attack = undisturbed(job, is_long=is_long)
            print(f"undisturbed, {job.value}, {'long' if is_long else 'short'}", file=sys.stderr)
            seen = run_attacked(
                attack,
                self._directory,
                earlier=self.earlier(job),
                timeout_s=REFERENCE_TIMEOUT_S,
                num_frames=1,
            )
            if seen.exit_code != 0:
                raise RuntimeError(f"the job fails though nobody meddles:\n{seen.printed}")
            self._runs[job, is_long] = seen
        return self._runs[job, is_long]


def try_all(
    attacks: Sequence[Attack], directory: Path, *, num_frames: int
) -> Iterator[dict[str, Any]]:
    """Each attack's verdict, as soon as it is known."""
    references = Undisturbed(directory)
    for attack in attacks:
        reference = references.run(attack.job, is_long=attack.is_long)
        print(f"{attack.name}: {attack.does}", file=sys.stderr)
        seen = run_attacked(
            attack,
            directory,
            earlier=references.earlier(attack.job),
            timeout_s=PATIENCE * reference.wall_s + PATIENCE_S,
            num_frames=num_frames,
        )
        verdict = judge(attack, seen, reference, num_frames=num_frames)
        for wrong in [*verdict["not_made"], *verdict["wrong"]]:
            print(f"  {wrong}", file=sys.stderr)
        yield verdict


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Attack, print a table, append JSON lines if asked to; exit with 1 if anything worked."""
    wrong = mistake(options)
    if wrong:
        print(f"security: error: {wrong}", file=sys.stderr)
        sys.exit(2)
    facts = header()
    print_header(facts, make_console())
    try:
        results = None if options.json is None else Results(options.json)
    except ValueError as error:
        print(f"security: error: {error}", file=sys.stderr)
        sys.exit(2)
    if results is not None:
        results.append({"header": facts})
    if options.cost:
        records = []
        for record in measure(options.cost):
            records.append(record)
            if results is not None:
                results.append(record)
        return show(records, make_console())
    if os.getuid() != 0:
        print(NOT_ROOT)
    began_s, verdicts = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="sec", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)  # it is for the runs to hide what they have
        for verdict in try_all(chosen(options), directory, num_frames=options.frames):
            verdicts.append(verdict)
            if results is not None:
                results.append(verdict)
    print_attacks(verdicts, make_console())
    outcomes = [outcome(verdict) for verdict in verdicts]
    took_s = time.monotonic() - began_s
    print(
        f"{outcomes.count(WORKED)} of {len(verdicts)} attacks worked, "
        f"{outcomes.count(NOT_MADE)} were not made, {took_s:.0f} s"
    )
    sys.exit(0 if outcomes.count(HELD) == len(verdicts) else 1)
