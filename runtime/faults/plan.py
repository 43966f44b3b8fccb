"""Faults as data: what is to go wrong, where, and at which step.

Owns the notation and the drawing of random plans. One plan drives the simulator and the real
processes; how a fault is carried out is theirs. Imports the standard library only.

    kill:1@40           at block 1's step 40
    slow:2@50x3+20      block 2 is three times as slow for 20 steps
    drop:0-1@70         what worker 0 sends to worker 1 at step 70 (1-0: downward)
    partition:0-1@70+2  for two seconds
    coordinator-kill@80 (of the whole job)
"""

import difflib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Place(Enum):
    """What a fault strikes, and how that is written."""

    BLOCK = "a block, as in kill:1@40"
    EDGE = "an edge with its direction, as in drop:0-1@70 or drop:1-0@70"
    JOB = "the job, as in coordinator-kill@80"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way in which things go wrong. `amount` is its default, in the unit of `amount_of`."""

    place: Place
    told: str
    amount: float = 0.0
    amount_of: str = ""


KINDS = {
    "kill": Kind(place=Place.BLOCK, told="SIGKILL to the worker"),
    "segfault": Kind(place=Place.BLOCK, told="the worker reads address 0"),
    "exit": Kind(place=Place.BLOCK, told="an exception in the step"),
    "oom": Kind(place=Place.BLOCK, told="the worker runs out of memory"),
    "stop": Kind(place=Place.BLOCK, told="SIGSTOP to the worker"),
    "gil": Kind(place=Place.BLOCK, told="a thread of the worker holds the GIL for ever"),
    "spin": Kind(place=Place.BLOCK, told="the worker's loop is stuck; its process is alive"),
    "hang": Kind(place=Place.BLOCK, told="the step's compute never ends; the loop turns"),
    "slow": Kind(place=Place.BLOCK, told="slower steps", amount=10, amount_of="steps"),
    "nan": Kind(place=Place.BLOCK, told="the loss is not a number"),
    "zombie": Kind(place=Place.BLOCK, told="the worker dies, and the dead one sends once more"),
    "kill-restarting": Kind(place=Place.BLOCK, told="SIGKILL, and again during the recovery"),
    "kill-snapshotting": Kind(
        place=Place.BLOCK, told="SIGKILL in the midst of the next snapshot's copy from that step on"
    ),
    "kill-checkpointing": Kind(
        place=Place.BLOCK, told="SIGKILL in the next checkpoint from that step on"
    ),
    "drop": Kind(place=Place.EDGE, told="a message is lost"),
    "duplicate": Kind(place=Place.EDGE, told="a message comes twice"),
    "delay": Kind(place=Place.EDGE, told="messages are late", amount=0.5, amount_of="s"),
    "reorder": Kind(place=Place.EDGE, told="a message overtakes the one before"),
    "corrupt": Kind(place=Place.EDGE, told="a bit of a tensor flips"),
    "corrupt-header": Kind(place=Place.EDGE, told="a bit of a header flips"),
    "truncate": Kind(place=Place.EDGE, told="a message ends early"),
    "oversize": Kind(place=Place.EDGE, told="a message is larger than was agreed"),
    "cut": Kind(place=Place.EDGE, told="the connection is closed"),
    "partition": Kind(
        place=Place.EDGE, told="nothing passes in either direction", amount=2.0, amount_of="s"
    ),
    "keeper-kill": Kind(place=Place.BLOCK, told="SIGKILL to the worker's keeper"),
    "coordinator-kill": Kind(place=Place.JOB, told="SIGKILL to the coordinator"),
    "job-kill": Kind(place=Place.JOB, told="SIGKILL to every process of the job"),
    "disk-full": Kind(place=Place.BLOCK, told="no space for the block's part of a checkpoint"),
    "torn": Kind(place=Place.BLOCK, told="half of the block's part of a checkpoint is written"),
    "flip": Kind(place=Place.BLOCK, told="a bit flips in the block's part of a checkpoint"),
}

_FORM = re.compile(
    r"(?P<kind>[a-z-]+)"
    r"(?::(?:(?P<a>\d+)-(?P<b>\d+)|(?P<block>\d+)))?"
    r"@(?P<step>\d+)"
    r"(?:x(?P<factor>\d+(?:\.\d+)?))?"
    r"(?:\+(?P<amount>\d+(?:\.\d+)?))?"
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. `block` or `edge` (from, to) says where; `factor` is how many times slower."""

    kind: str
    step: int
    block: int | None = None
    edge: tuple[int, int] | None = None
    factor: float = 3.0
    amount: float = 0.0

    def __str__(self) -> str:
        place = "" if self.block is None else f":{self.block}"
        if self.edge is not None:
            place = f":{self.edge[0]}-{self.edge[1]}"
        factor = f"x{_number(self.factor)}" if self.kind == "slow" else ""
        amount = f"+{_number(self.amount)}" if KINDS[self.kind].amount_of else ""
        return f"{self.kind}{place}@{self.step}{factor}{amount}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:f}".rstrip("0")


def parse(text: str) -> tuple[Fault, ...]:
    """Read a plan such as "kill:1@40,drop:0-1@70". Raises ValueError, with the remedy."""
    return tuple(_parse_one(part.strip()) for part in text.split(",") if part.strip())


def _parse_one(text: str) -> Fault:
    found = _FORM.fullmatch(text)
    name = found["kind"] if found else re.split("[:@]", text)[0]
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(KINDS)}"
        raise ValueError(f"fault {text!r}: there is no kind {name!r}; {hint}")
    kind = KINDS[name]
    if found is None:
        raise ValueError(f"fault {text!r} is malformed; write {name} for {kind.place.value}")
    edge = None if found["a"] is None else (int(found["a"]), int(found["b"]))
    block = None if found["block"] is None else int(found["block"])
    fits = {Place.BLOCK: block is not None, Place.EDGE: edge is not None, Place.JOB: True}
    if not fits[kind.place] or (kind.place is Place.JOB and (edge or block is not None)):
        raise ValueError(f"fault {text!r}: {name} strikes {kind.place.value}")
    if edge is not None and abs(edge[0] - edge[1]) != 1:
        raise ValueError(f"fault {text!r}: workers {edge[0]} and {edge[1]} are no neighbours")
    if found["factor"] is not None and name != "slow":
        raise ValueError(f"fault {text!r}: only slow takes a factor (x)")
    if found["amount"] is not None and not kind.amount_of:
        raise ValueError(f"fault {text!r}: {name} takes no duration (+)")
    return Fault(
        kind=name,
        step=int(found["step"]),
        block=block,
        edge=edge,
        factor=float(found["factor"] or 3.0),
        amount=kind.amount if found["amount"] is None else float(found["amount"]),
    )


def check(faults: Sequence[Fault], *, num_workers: int, num_steps: int) -> None:
    """Raise ValueError for a fault that this job can never meet."""
    for fault in faults:
        for worker in (fault.block, *(fault.edge or ())):
            if worker is not None and worker >= num_workers:
                raise ValueError(
                    f"fault '{fault}': there is no worker {worker};"
                    f" the job has 0 to {num_workers - 1}"
                )
        if fault.step >= num_steps:
            raise ValueError(f"fault '{fault}': the job ends before step {fault.step}")


def draw(kind: str, rng: random.Random, *, num_workers: int, steps: range) -> Fault:
    """Draw where and when a fault of a kind strikes."""
    step = rng.choice(steps)
    place, amount = KINDS[kind].place, KINDS[kind].amount
    if place is Place.JOB:
        return Fault(kind=kind, step=step)
    if place is Place.BLOCK:
        return Fault(kind=kind, step=step, block=rng.randrange(num_workers), amount=amount)
    low = rng.randrange(num_workers - 1)
    edge = rng.choice([(low, low + 1), (low + 1, low)])
    return Fault(kind=kind, step=step, edge=edge, amount=amount)
