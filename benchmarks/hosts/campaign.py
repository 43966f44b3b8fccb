"""The main job on two and three hosts: started in every way, and hurt in every way.

    sudo python -m benchmarks.hosts                      all of it
    sudo python -m benchmarks.hosts --only starts
    sudo python -m benchmarks.hosts --only rank-kill,preempt --seeds 5

Each case ends in the weights of the same job on one host, bit for bit, or it is told what is wrong,
and the exit code is 1. Network namespaces stand in for hosts (benchmarks/hosts/namespaces.py),
which takes root on Linux; their disk is one, or one each with checkpoints in an S3 server.
"""

import contextlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter

from benchmarks.harness import (
    Results,
    TextList,
    header,
    make_console,
    make_table,
    print_header,
    run_once,
)
from benchmarks.hosts import s3
from benchmarks.hosts.job import HOWS, PIPELINE, HostsJob, How, write_secret
from benchmarks.hosts.namespaces import Hosts, why_not
from launch.config import ConfigError

Disks = Literal["shared", "own"]
STARTS = "starts"
FAULTS = ("rank-kill", "host-kill", "host-return", "preempt", "link-down:5", "link-down:60")
LOST = "host-lost"
UNREACHED = "unreachable"
LINK_DOWN = re.compile(r"link-down:\d+(\.\d+)?")  # seconds
KINDS = (STARTS, *FAULTS, LOST, UNREACHED)
LAUNCHERS: Mapping[str, How] = {
    "rank-kill": "torchrun",
    "host-return": "torchrun-own-store",
    LOST: "torchrun-own-store",
}
"""Which start ranks again by themselves; all else is started one rank at a time."""
RANKS = {2: (2, 2), 3: (1, 1, 2)}
STEPS = 120
CHECKPOINT_EVERY = 10
RANK_TIMEOUT_S = 75.0  # longer than the longest cut
FLAGS = (
    f"--steps={STEPS}",
    "--batch-size=8",
    "--threads=1",
    "--quick-end",
    f"--checkpoint-every={CHECKPOINT_EVERY}",
    f"--rank-timeout-s={RANK_TIMEOUT_S:g}",
)
START_S, END_S, RETURN_S = 120.0, 300.0, 3.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to start and to hurt."""

    only: TextList = ()
    """Of starts, rank-kill, host-kill, host-return, host-lost, preempt, link-down:S, unreachable;
    without it all."""
    seeds: int = 5
    """Cases of each fault; seed i draws the host and the step."""
    hows: TextList = HOWS
    """Ways of starting."""
    json: Path | None = None
    """File that gets a JSON line a case."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One job: `kind` is what is done to it."""

    kind: str
    how: How
    num_hosts: int = 2
    seed: int = 0
    ipv6: bool = False
    disks: Disks = "shared"

    @property
    def name(self) -> str:
        family = ", IPv6" if self.ipv6 else ""
        disks = "" if self.disks == "shared" else ", a disk each and S3"
        return f"{self.kind}: {self.how}, {self.num_hosts} hosts{family}{disks}, seed {self.seed}"


def cases(options: Options) -> Iterator[Case]:
    """All that is asked for."""
    hows = [how for how in HOWS if how in options.hows]
    for kind in options.only or KINDS:
        if kind == STARTS:
            for disks in get_args(Disks):
                for number in RANKS:
                    every = (Case(kind=kind, how=h, num_hosts=number, disks=disks) for h in hows)
                    yield from every
            yield from (Case(kind=kind, how=how, ipv6=True) for how in ("torchrun", "env"))
        elif kind == UNREACHED:
            yield Case(kind=kind, how="env")
        else:
            how = LAUNCHERS.get(kind, "env")
            seeds = range(1 if kind == LOST else options.seeds)
            yield from (Case(kind=kind, how=how, seed=seed) for seed in seeds)


def run_case(case: Case, expected: str, work: Path) -> dict[str, Any]:
    """Run a case; its figures, and what is wrong."""
    own = work / "own"
    own.mkdir()
    own_dirs = () if case.disks == "shared" else (own,)
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(Hosts(case.num_hosts, ipv6=case.ipv6, own_dirs=own_dirs))
        job = HostsJob(
            hosts=hosts,
            how=case.how,
            ranks=RANKS[case.num_hosts],
            flags=(*FLAGS, f"--secret-file={write_secret(work / 'secret')}"),
            run_dir=own / "run",
            work=work / "work",
            torchrun_flags=("--max-restarts=3",) if case.how != "pet" else (),
            is_elastic=case.kind == LOST,
            spares=("moto.server",),
        )
        if case.disks == "own":
            first = hosts.hosts[0]
            stack.enter_context(s3.serving(first, work))
            job.flags = (*job.flags, f"--checkpoint-dir={s3.URL}")
            job.env = s3.environment(first)
        return _run_unreached(case, job) if case.kind == UNREACHED else _run(case, job, expected)


def _run(case: Case, job: HostsJob, expected: str) -> dict[str, Any]:
    job.start()
    record: dict[str, Any] = {"kind": case.kind, "case": case.name, "wrong": []}
    if case.kind != STARTS:
        record |= hurt(case, job, random.Random(case.name))
    if not job.finish(END_S):
        record["wrong"].append("does not end")
    wanted = record.pop("codes", None) or [0] * len(job.processes)
    is_recut = case.kind == LOST and "another cut (workers 4 -> 2" in job.text
    if job.codes != wanted:
        record["wrong"].append(f"exit codes {job.codes}")
    sha256 = job.summary.get("weights_sha256")
    if sha256 != expected and not (sha256 and is_recut):
        record["wrong"].append("other weights" if sha256 else "no weights")
    if left := job.end():
        record["wrong"].append(f"left behind: {left}")
    if record["wrong"]:
        record["text"] = job.text[-4000:]
    return record


def hurt(case: Case, job: HostsJob, rng: random.Random) -> dict[str, Any]:
    """Do to a job what the case says, when it has come to some step; what was seen of it. The new
    step is the top worker's first: in a process that was started since, or, if the network was cut,
    since it was mended."""
    step, index = rng.randrange(15, STEPS // 2), rng.randrange(2)
    wrong = [] if job.wait_for_step(step, START_S) else ["did not get to the step"]
    hurt_t, before, old = time.time(), job.step(), job.pids()
    codes: list[int | None] = []
    if case.kind == "rank-kill":
        job.kill_rank(index)
    elif case.kind.startswith("link-down"):
        job.hosts.cut(1)
        time.sleep(float(case.kind.partition(":")[2]))
        job.hosts.mend(1)
        hurt_t, old = time.time(), set()  # from here on it can go on, and with the same workers
    elif case.kind in (LOST, "host-return"):
        index = 1  # host 0 has torchrun's rendezvous
        job.hosts.hosts[1].kill()
        codes = [0, -signal.SIGKILL]
        if case.kind == "host-return":
            time.sleep(RETURN_S)
            job.start_on(1)
            codes = [*codes, 0]
    elif case.kind == "preempt":
        job.signal_host(index)
        codes = _start_again(job, [128 + signal.SIGTERM] * 4, wrong)
    else:
        job.hosts.hosts[index].kill()
        lost = [-signal.SIGKILL if p.host == index else 1 for p in job.processes]
        codes = _start_again(job, lost, wrong)
    ended_s = time.time() - hurt_t
    top = job.ranks[0] - 1 if case.kind == LOST else sum(job.ranks) - 1
    first_step_t = partial(job.first_step_t, hurt_t, block=top, but=old)
    if not job.wait(lambda: first_step_t() is not None, END_S):
        wrong.append("no step behind it")
    new_step_t = first_step_t()
    return {
        "host": index,
        "at_step": before,
        "wrong": wrong,
        "codes": codes,
        "ended_s": ended_s if codes else None,
        "new_step_s": None if new_step_t is None else new_step_t - hurt_t,
    }


def _start_again(
    job: HostsJob, expected: Sequence[int | None], wrong: list[str]
) -> list[int | None]:
    """Wait for the end of all ranks, and start all hosts once more, as a cluster's manager does;
    the exit codes that are expected at last."""
    job.finish(END_S)
    if job.codes != expected:
        wrong.append(f"exit codes {job.codes} for {expected}")
    if left := job.end():
        wrong.append(f"left behind: {left}")
    job.start()
    return [*job.codes[: len(expected)], *[0] * len(expected)]


def _run_unreached(case: Case, job: HostsJob) -> dict[str, Any]:
    """Workers of host 0 listen where host 1 can't reach them."""
    job.flags_of_host = {0: ("--bind=lo",)}
    job.start()
    wrong = []
    told = "does not reach"
    began_s = time.monotonic()
    if not job.wait(lambda: told in job.text, START_S):
        wrong.append("not told")
    told_s = time.monotonic() - began_s
    if not job.finish(END_S):
        wrong.append("does not end")
    lines = [line for line in job.text.splitlines() if told in line]
    if not any("worker 2 " in ln and "worker 1 at tcp://127.0.0.1:" in ln for ln in lines):
        wrong.append(f"told: {lines}")
    return {
        "kind": case.kind,
        "case": case.name,
        "told_s": told_s,
        "ended_s": time.monotonic() - began_s,
        "lines": lines,
        "wrong": wrong + [f"left behind: {left}" for left in job.end()],
        "text": job.text[-4000:],
    }


def reference(work: Path) -> str:
    """The weights of the job on one host."""
    command = [sys.executable, str(PIPELINE), *FLAGS, f"--run-dir={work / 'reference'}"]
    sha256: str = run_once(command, work / "reference")["weights_sha256"]
    return sha256


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Run all cases and show them."""
    if reason := why_not():
        raise ConfigError(f"{reason}; benchmarks.hosts makes hosts of network namespaces")
    if lacking := s3.missing():
        raise ConfigError(f"no {' '.join(lacking)} here; install with pip install -e '.[dev]'")
    if unknown_hows := [how for how in options.hows if how not in HOWS]:
        raise ConfigError(f"hows {' '.join(unknown_hows)}; give some of {' '.join(HOWS)}")
    unknown = [kind for kind in options.only if kind not in KINDS and not LINK_DOWN.fullmatch(kind)]
    if unknown:
        raise ConfigError(f"only {' '.join(unknown)}; give some of {' '.join(KINDS)}")
    console = make_console()
    head = header()
    print_header(head, console)
    results = None if options.json is None else Results(options.json)
    if results is not None:
        results.append(head)
    rows = []
    with tempfile.TemporaryDirectory(prefix="loco-hosts-") as folder:
        expected = reference(Path(folder))
        for number, case in enumerate(cases(options)):
            work = Path(folder) / str(number)
            work.mkdir()
            try:
                record = run_case(case, expected, work)
            except subprocess.SubprocessError as error:
                record = {"kind": case.kind, "case": case.name, "wrong": [str(error)]}
            rows.append(record)
            if results is not None:
                results.append(record)
            told = "; ".join(record["wrong"]) or "well"
            seconds = record.get("new_step_s") or record.get("told_s")
            took = "" if seconds is None else f", {seconds:.1f} s"
            console.print(f"{record['case']}: {told}{took}")
    table = make_table("kind", "cases", "well", "seconds to a new step, median", "most")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        ours = [row for row in rows if row["kind"] == kind]
        seconds = sorted(row["new_step_s"] for row in ours if row.get("new_step_s") is not None)
        shown = [f"{seconds[len(seconds) // 2]:.1f}", f"{seconds[-1]:.1f}"] if seconds else ["", ""]
        well = sum(not row["wrong"] for row in ours)
        table.add_row(kind, str(len(ours)), str(well), *shown)
    console.print()
    console.print(table)
    if any(row["wrong"] for row in rows):
        sys.exit(1)
