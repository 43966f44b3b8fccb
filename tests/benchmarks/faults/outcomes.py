"""Outcomes of runs under faults, written by hand: four workers that end a step a second."""

from benchmarks.faults.case import Outcome

DIGEST = "a" * 64
BEGAN_T = 1000.0


def step(block: int, number: int, t: float, *, pid: int | None = None) -> dict:
    return {"block": block, "step": number, "t": t, "pid": 10 + block if pid is None else pid}


def restart(block: int, t: float, *, detected_t: float, pid: int) -> dict:
    return {"event": "restart", "block": block, "t": t, "detected_t": detected_t, "pid": pid}


def fired(fault: str, t: float) -> dict:
    return {"fault": fault, "t": t}


def steady(block: int, num_steps: int = 20) -> list[dict]:
    """A worker that nothing befalls: step n ends n seconds behind the first."""
    return [step(block, n, BEGAN_T + n) for n in range(num_steps)]


def died(block: int, at: int, *, detected_s: float = 0.5, healed_s: float = 2.5) -> list[dict]:
    """One that dies half a second behind step `at`, comes back as another process, repeats that
    step, and is beyond it `healed_s` after its death."""
    died_t = BEGAN_T + at + 0.5
    later = [step(block, n, died_t + healed_s + n - at - 1, pid=99) for n in range(at + 1, 20)]
    return [
        *steady(block, at + 1),
        restart(block, died_t + 1.0, detected_t=died_t + detected_s, pid=99),
        step(block, at, died_t + 1.2, pid=99),
        *later,
    ]


def outcome(
    *workers: list[dict], faults: dict[str, float] | None = None, **changes: object
) -> Outcome:
    """The outcome of workers' records, and of faults that fired at those times."""
    given = {
        "exit_code": 0,
        "text": "",
        "summary": {
            "state_sha256": DIGEST,
            "batches": {"duplicates_dropped": 1, "replayed": 2},
        },
        "metrics": [record for records in workers for record in records],
        "fired": [fired(name, t) for name, t in (faults or {}).items()],
    }
    return Outcome(**(given | changes))
