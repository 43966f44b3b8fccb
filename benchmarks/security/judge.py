"""Whether an attack was held off: what a run came to under it, beside one that nobody disturbed.

Owns the verdicts. Knows nothing of how a run is started, or of what was sent to it.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from benchmarks.security.catalogue import ALL_SORTS, Attack
from benchmarks.security.run import ROLES, Seen
from benchmarks.security.stranger import Report

LEAST_RATE = 0.9
MOST_GROWTH_BYTES = 64 << 20


def growth_bytes(seen: Seen, reference: Seen) -> dict[str, int]:
    """How far each process's peak lies above that of the undisturbed run."""
    return {
        role: peak - reference.peaks[role]
        for role, peak in seen.peaks.items()
        if role in reference.peaks
    }


def rate_ratio(seen: Seen, reference: Seen) -> float | None:
    """The rate beside the undisturbed one."""
    if not seen.samples_per_s or not reference.samples_per_s:
        return None
    return seen.samples_per_s / reference.samples_per_s


def is_same(seen: Seen, reference: Seen) -> bool:
    """Whether it ended with the same weights, bit for bit."""
    expected = reference.summary.get("weights_sha256")
    return expected is not None and seen.summary.get("weights_sha256") == expected


def judge(attack: Attack, seen: Seen, reference: Seen, *, num_frames: int) -> dict[str, Any]:
    """One attack's figures; why nothing is shown by it, if it was not made; and what is wrong: what
    it did that it should not have been able to, or what can't be told of the run."""
    ratio, growth = rate_ratio(seen, reference), growth_bytes(seen, reference)
    return {
        "attack": attack.name,
        "row": attack.row,
        "does": attack.does,
        "job": attack.job.value,
        "exit_code": seen.exit_code,
        "wall_s": round(seen.wall_s, 1),
        "same_weights": is_same(seen, reference),
        "replaced": seen.replaced,
        "killed": seen.killed,
        "restarts": len(seen.summary.get("restarts", ())),
        "rate_ratio": None if ratio is None else round(ratio, 3),
        "growth_bytes": growth,
        "refused": seen.summary.get("refused"),
        "exposed": list(seen.exposed),
        "report": seen.report,
        "not_made": [*why_not_made(attack, seen.report, killed=seen.killed, num_frames=num_frames)],
        "wrong": [
            *seen.report.get("worked", ()),
            *_wrong_with_run(seen, is_same(seen, reference)),
            *_wrong_with_pace(attack, ratio),
            *_wrong_with_memory(attack, growth),
        ],
    }


def why_not_made(attack: Attack, report: Report, *, killed: int, num_frames: int) -> Iterator[str]:
    """Why the attack was not made, or not as it should have been; nothing if it was."""
    if "not_made" in report:
        yield f"not made: {report['not_made']}"
        return
    if "error" in report:
        last = (str(report["error"]).strip().splitlines() or [""])[-1]
        yield f"the attack was not carried out: {last}"
    elif attack.name == ALL_SORTS and (sent := report.get("frames", 0)) < num_frames:
        yield f"the attack was not carried out: {sent:,} of {num_frames:,} frames were sent"
    elif not count(report, attack.proof):
        yield f"the attack was not carried out: it tells of no {attack.proof}"
    if killed != len(attack.kills):
        yield "the attack was not carried out: no worker was killed"


def count(report: Report, name: str) -> int:
    """A count of the report, or how many there are of what it lists; 0 if it does not tell."""
    found: int | Collection[Any] = report.get(name, 0)
    return found if isinstance(found, int) else len(found)


def _wrong_with_run(seen: Seen, same: bool) -> list[str]:
    wrong = []
    if seen.exit_code is None:
        wrong.append(f"the job had not ended after {seen.wall_s:.0f} s")
    elif seen.exit_code != 0:
        wrong.append(f"the job ended with exit code {seen.exit_code}")
    elif not same:
        wrong.append("the job ended well, with other weights")
    died = max(seen.replaced, len(seen.summary.get("restarts", ()))) - seen.killed
    if died > 0:
        wrong.append(f"{died} processes were replaced that nobody killed")
    if seen.exposed:
        wrong.append(f"it listens for other hosts at {', '.join(seen.exposed)}")
    return wrong


def _wrong_with_pace(attack: Attack, ratio: float | None) -> list[str]:
    if not attack.judges_rate:
        return []
    if ratio is None:
        return ["not shown: the rate beside the undisturbed one"]
    return [f"the rate fell to {ratio:.2f} of the undisturbed one"] if ratio < LEAST_RATE else []


def _wrong_with_memory(attack: Attack, growth: Mapping[str, int]) -> list[str]:
    """Of all processes but those that the benchmark kills itself, which may go unseen."""
    killed = {f"worker {block}" for block in attack.kills}
    return [
        *(f"not shown: the memory of {role}" for role in sorted(ROLES - killed - growth.keys())),
        *(
            f"the memory of {role} grew by {size / 1e6:.0f} MB"
            for role, size in sorted(growth.items())
            if size > MOST_GROWTH_BYTES
        ),
    ]
