"""Injects every kind of fault into the real main job, and shows that the result stays the same.

    python -m benchmarks.faults                        every kind, ten seeds: about an hour
    python -m benchmarks.faults --only kill --seeds 3
    python -m benchmarks.faults --soak 10 --mtbf-s 15  random faults for ten minutes

Exits with 1 if any fault did not fire, is not healed, changed a result, cost another process its
life, or left something behind.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.faults.case import Job, Outcome, run_case, run_reference
from benchmarks.harness import (
    Results,
    TextList,
    header,
    make_console,
    make_table,
    print_header,
)
from runtime.faults.plan import KINDS, Fault, Place, draw

NUM_WORKERS = 4
HANG_TIMEOUT_S = 2.0
HANGS = {"stop", "gil", "spin", "hang"}
DEATHS = {
    *("kill", "segfault", "exit", "oom", "zombie"),
    *("kill-restarting", "kill-snapshotting", "kill-checkpointing"),
}
WHOLE_JOB = {"keeper-kill", "job-kill", "torn", "flip"}
STRAIGHT = {"slow", "nan", "coordinator-kill", "disk-full"}  # no worker is restarted
SOAKED = sorted((DEATHS | HANGS | {"coordinator-kill", "disk-full"}) - {"kill-checkpointing"}) + [
    kind for kind, facts in KINDS.items() if facts.place is Place.EDGE
]
CHECKPOINT_EVERY = 12


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to inject."""

    only: TextList = ()
    """Kinds, such as kill,drop; without it all. two-neighbours is kill of two at once."""
    seeds: int = 10
    """Cases of each kind; seed i draws block or edge, and step."""
    steps: int = 32
    """Steps of a case."""
    model: str = "resnet-small"
    """Network of the main job."""
    batch_size: int = 8
    """Images a step."""
    flags: str = ""
    """More flags of the main job, written as --flags="--tie follow --overlap 1,2,1"."""
    soak: float | None = None
    """Minutes of random faults instead, in one run."""
    mtbf_s: float = 15.0
    """Mean seconds between the faults of a soak."""
    seed: int = 0
    """Seed of a soak."""
    json: Path | None = None
    """File that gets a JSON line a case."""


def make_job(options: Options, *, steps: int, **flags: object) -> Job:
    """The main job, small: the default network on digits, in few and small steps."""
    given = {
        "model": options.model,
        "batch-size": options.batch_size,
        "steps": steps,
        "threads": 1,
        "checkpoint-every": CHECKPOINT_EVERY,
        "hang-timeout-s": HANG_TIMEOUT_S,
        "report-every-s": 0.1,
    }
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    values = tuple(f"--{name}={value}" for name, value in (given | named).items())
    return Job(flags=(*values, "--quick-end", *options.flags.split()))


def make_plan(kind: str, seed: int, num_steps: int) -> list[Fault]:
    """The faults of one case: the kind's own, and a job-kill if only a resume can show it."""
    rng = random.Random(f"{kind}/{seed}")
    if kind == "two-neighbours":
        low, step = rng.randrange(NUM_WORKERS - 1), rng.randrange(5, num_steps - 6)
        return [Fault(kind="kill", block=k, step=step) for k in (low, low + 1)]
    if kind in ("torn", "flip"):
        # In the newest complete checkpoint: the job is killed before the next one.
        first = CHECKPOINT_EVERY * rng.randrange(1, (num_steps - 12) // CHECKPOINT_EVERY + 1)
        fault = draw(kind, rng, num_workers=NUM_WORKERS, steps=range(first - 5, first + 1))
        return [fault, Fault(kind="job-kill", step=first + CHECKPOINT_EVERY - 1)]
    latest = num_steps - (CHECKPOINT_EVERY if kind in ("kill-checkpointing", "disk-full") else 6)
    return [draw(kind, rng, num_workers=NUM_WORKERS, steps=range(5, latest))]


def struck(fault: Fault) -> int:
    """The worker that a fault is seen at: its own, or the receiver of what is hurt."""
    if fault.edge is not None:
        return fault.edge[1]
    return fault.block or 0


def judge(kind: str, plan: Sequence[Fault], outcome: Outcome, expected: str) -> dict[str, Any]:
    """One case's figures, and what is wrong with it."""
    own = [fault for fault in plan if kind == "job-kill" or fault.kind != "job-kill"]
    blocks = {struck(fault) for fault in own}
    detected = [outcome.detected_s(fault, struck(fault)) for fault in own]
    healed = [outcome.healed_s(fault, struck(fault)) for fault in own]
    batches = outcome.summary.get("batches", {})
    others = set(range(NUM_WORKERS)) - (blocks if kind not in STRAIGHT | EDGES else set())
    strangers = [k for k in others if len(outcome.pids(k)) != 1]
    wrong = []
    if any(outcome.fired_t(fault) is None for fault in plan):
        wrong.append("did not fire")
    if outcome.exit_code != 0 or not batches:
        wrong.append(f"exit code {outcome.exit_code}")
    elif None in healed:
        wrong.append("not healed")
    if kind in DEATHS | HANGS | {"two-neighbours"} and None in detected:
        wrong.append("not detected")
    if kind in HANGS and max(s or 0.0 for s in detected) > HANG_TIMEOUT_S + 1:
        wrong.append("detected late")
    if outcome.summary.get("state_sha256") != expected:
        wrong.append("another result")
    if strangers and kind not in WHOLE_JOB:
        wrong.append(f"other processes changed: {strangers}")
    if kind in ("torn", "flip") and "damaged checkpoint is passed over" not in outcome.text:
        wrong.append("damage not seen")
    if outcome.left_behind:
        wrong.append(f"left behind: {outcome.left_behind}")
    return {
        "kind": kind,
        "plan": ",".join(map(str, plan)),
        "fired": not any(outcome.fired_t(fault) is None for fault in plan),
        "detected_s": _worst(detected),
        "healed_s": _worst(healed),
        **{key: batches.get(key) for key in ("duplicates_dropped", "replayed")},
        "others_unchanged": not strangers,
        "training_s": outcome.training_s if outcome.steps else None,
        "identical": outcome.summary.get("state_sha256") == expected,
        "wrong": wrong,
    }


EDGES = {kind for kind, facts in KINDS.items() if facts.place is Place.EDGE}


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)


def run_kind(
    options: Options,
    kind: str,
    baseline: Mapping[str, Any],
    results: Results | None,
    directory: Path,
) -> list[dict[str, Any]]:
    """All cases of a kind, one after another."""
    cases = []
    for seed in range(options.seeds):
        plan = make_plan(kind, seed, options.steps)
        flags = make_job(options, steps=options.steps)
        job = Job(flags=flags.flags, under_torchrun=kind == "keeper-kill")
        name = f"{kind}-{seed}"
        print(f"{name}: {','.join(map(str, plan))}", file=sys.stderr)
        expected = baseline["state_sha256"]
        if kind == "nan":
            expected = run_reference(job, directory / f"{name}-reference", plan)["state_sha256"]
        outcome = run_case(job, directory / name, plan)
        case = judge(kind, plan, outcome, expected) | {"seed": seed}
        if case["wrong"]:
            print(f"{name}: {case['wrong']}\n{outcome.text}", file=sys.stderr)
        case["slower_by"] = (case["training_s"] or 0.0) / baseline["training_s"] - 1
        cases.append(case)
        if results is not None:
            results.append(case)
    return cases


def add_row(table: Any, kind: str, cases: Sequence[Mapping[str, Any]]) -> None:
    """One kind's line: counts of cases, medians, and the worst healing."""
    n = len(cases)
    table.add_row(
        kind,
        f"{sum(case['fired'] for case in cases)}/{n}",
        _median(cases, "detected_s"),
        _median(cases, "healed_s"),
        f"{max((case['healed_s'] or 0.0 for case in cases), default=0.0):.2f}",
        *(str(sum(c[k] or 0 for c in cases)) for k in ("duplicates_dropped", "replayed")),
        f"{sum(case['others_unchanged'] for case in cases)}/{n}",
        f"{statistics.median(case['slower_by'] for case in cases):+.0%}",
        f"{sum(case['identical'] for case in cases)}/{n}",
        "ok" if not any(case["wrong"] for case in cases) else "WRONG",
    )


def _median(cases: Sequence[Mapping[str, Any]], key: str) -> str:
    known = [case[key] for case in cases if case[key] is not None]
    return f"{statistics.median(known):.2f}" if known else "–"


def make_fault_table() -> Any:
    return make_table(
        *("kind", "fired", "seen s", "healed s", "worst s", "dup.", "resent"),
        *("PIDs kept", "slower", "same", ""),
    )


def undisturbed(job: Job, directory: Path) -> dict[str, Any]:
    """The same job without faults: what every result must equal."""
    outcome = run_case(job, directory / "undisturbed", [])
    if outcome.exit_code != 0:
        raise RuntimeError(f"the job fails without a fault:\n{outcome.text}")
    return {
        "state_sha256": outcome.summary["state_sha256"],
        "training_s": outcome.training_s,
        "steps": outcome.summary["steps"],
    }


def campaign(options: Options, directory: Path, results: Results | None) -> bool:
    """Every kind; print a table and return whether all is well."""
    kinds = options.only or (*KINDS, "two-neighbours")
    baseline = undisturbed(make_job(options, steps=options.steps), directory)
    table, all_well = make_fault_table(), True
    for kind in kinds:
        cases = run_kind(options, kind, baseline, results, directory)
        all_well &= not any(case["wrong"] for case in cases)
        add_row(table, kind, cases)
    make_console().print(table)
    return all_well


def soak(options: Options, directory: Path, results: Results | None) -> bool:
    """Random faults for some minutes, in one run; print its line and return whether all is well."""
    assert options.soak is not None
    probe = undisturbed(make_job(options, steps=100), directory / "probe")
    step_s = probe["training_s"] / 100
    steps = max(60, int(options.soak * 60 / step_s))
    faults = soak_plan(options, steps, step_s)
    print(f"{steps} steps, {len(faults)} faults", file=sys.stderr)
    job = make_job(options, steps=steps, max_worker_restarts=10**6, max_bad_steps=100)
    baseline = undisturbed(job, directory)
    outcome = run_case(job, directory / "soak", faults)
    fired = [fault for fault in faults if outcome.fired_t(fault) is not None]
    healed = [outcome.healed_s(fault, struck(fault)) for fault in fired]
    batches = outcome.summary.get("batches", {})
    case = {
        "kind": "soak",
        "fired": len(fired),
        "faults": len(faults),
        "healed_median_s": statistics.median(s for s in healed if s is not None),
        "healed_worst_s": _worst(healed),
        "not_healed": [str(f) for f, s in zip(fired, healed, strict=True) if s is None],
        **batches,
        "slower_by": outcome.training_s / baseline["training_s"] - 1,
        "identical": outcome.summary.get("state_sha256") == baseline["state_sha256"],
        "left_behind": outcome.left_behind,
        "exit_code": outcome.exit_code,
    }
    if results is not None:
        results.append(case)
    table = make_table("soak", "")
    for name, value in case.items():
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    make_console().print(table)
    whole = case["identical"] and case["fired"] == case["faults"] and not case["not_healed"]
    if not whole:
        print(outcome.text[-5000:], file=sys.stderr)
    return bool(whole and not outcome.left_behind and outcome.exit_code == 0)


def soak_plan(options: Options, steps: int, step_s: float) -> list[Fault]:
    """Faults at exponential distances, with the given mean in seconds, drawn from the seed."""
    rng, step = random.Random(options.seed), 5.0
    faults: list[Fault] = []
    while True:
        step += max(1.0, rng.expovariate(step_s / options.mtbf_s))
        if step >= steps - CHECKPOINT_EVERY - 1:
            return faults
        at = range(int(step), int(step) + 1)
        faults.append(draw(rng.choice(SOAKED), rng, num_workers=NUM_WORKERS, steps=at))


def main(options: Annotated[Options, Parameter(name="*")] = Options()) -> None:
    """Run, print a table, append JSON lines if asked to; exit with 1 if anything is wrong."""
    unknown = set(options.only) - set(KINDS) - {"two-neighbours"}
    if unknown:
        print(f"faults: error: no kind {sorted(unknown)}; choose from {', '.join(KINDS)}")
        sys.exit(2)
    facts = header()
    print_header(facts, make_console())
    results = None
    if options.json is not None:
        results = Results(options.json)
        results.append({"header": facts})
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        run = campaign if options.soak is None else soak
        all_well = run(options, Path(directory), results)
    verdict = "all is well" if all_well else "something is WRONG"
    make_console().print(f"{verdict}, {time.monotonic() - began_s:.0f} s")
    sys.exit(0 if all_well else 1)
