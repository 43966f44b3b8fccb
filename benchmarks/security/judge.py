"""Whether an attack was held off: what a run came to under it, beside one that nobody disturbed.

Owns the verdicts. Knows nothing of how a run is started, or of what was sent to it.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.security.catalogue import ALL_SORTS, Attack
from benchmarks.security.run import Seen

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
    """One attack's figures, and what it did that it should not have been able to."""
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
        "wrong": [
            *_wrong_with_attack(attack, seen, num_frames),
            *_wrong_with_run(seen, is_same(seen, reference)),
            *_wrong_with_pace(attack, ratio, growth),
        ],
    }


def _wrong_with_attack(attack: Attack, seen: Seen, num_frames: int) -> list[str]:
    """What the stranger won by itself; and, as nothing is shown by it then, that it did not act."""
    wrong = list(seen.report.get("worked", ()))
    if "error" in seen.report:
        last = (str(seen.report["error"]).strip().splitlines() or [""])[-1]
        wrong.append(f"the attack was not carried out: {last}")
    if len(attack.kills) != seen.killed:
        wrong.append("the attack was not carried out: no worker was killed")
    sent = seen.report.get("frames", 0)
    if attack.name == ALL_SORTS and sent < num_frames:
        wrong.append(f"the attack was not carried out: {sent:,} of {num_frames:,} frames were sent")
    return wrong


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


def _wrong_with_pace(attack: Attack, ratio: float | None, growth: Mapping[str, int]) -> list[str]:
    wrong = []
    if attack.judges_rate and ratio is not None and ratio < LEAST_RATE:
        wrong.append(f"the rate fell to {ratio:.2f} of the undisturbed one")
    for role, size in sorted(growth.items()):
        if size > MOST_GROWTH_BYTES:
            wrong.append(f"the memory of {role} grew by {size / 1e6:.0f} MB")
    return wrong
