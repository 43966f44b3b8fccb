"""What a run's records are: a step's, an event's, a worker's report and result, and the summary.

Owns their fields, which are the keys of metrics.jsonl and summary.json, and how they become plain
data (`asdict`) and are read back (`from_dict`). Knows nothing of where figures come from. Shares
and accuracies are fractions (0 to 1); what is not known is None; `_t` is unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """What a worker's time went into, and what it waited for."""

    compute_s: float = 0.0
    overhead_s: float = 0.0
    wait_input_s: float = 0.0
    wait_credit_s: float = 0.0
    wait_tie_s: float = 0.0
    snapshot_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.compute_s + self.overhead_s + self.waited_s + self.snapshot_s

    @property
    def waited_s(self) -> float:
        return self.wait_input_s + self.wait_credit_s + self.wait_tie_s

    def share(self, seconds: float) -> float | None:
        """So many seconds as a share of all of these."""
        return seconds / self.total_s if self.total_s else None

    def __sub__(self, before: "Seconds") -> "Seconds":
        names = [field.name for field in fields(Seconds)]
        return Seconds(**{name: getattr(self, name) - getattr(before, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A step that a worker has done, and its block's figures then. `probe_top1` is measured on
    training batches, and `bad_steps` counts those left out so far, or their ties."""

    t: float
    block: int
    pid: int
    generation: int
    step: int
    loss: float
    probe_top1: float
    samples_per_s: float
    bad_steps: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that a worker tells once."""

    event: str
    t: float
    block: int
    pid: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class Restarted(Event):
    """A later generation begins: why the one before ended, and when its keeper saw that."""

    event: str = "restart"
    cause: str
    detected_t: float
    from_step: int
    completed_before: int


@dataclass(frozen=True, kw_only=True)
class Healed(Event):
    """It has passed the furthest step of all earlier generations, `healed_s` after the last one of
    them ended."""

    event: str = "healed"
    healed_s: float


@dataclass(frozen=True, kw_only=True)
class Carried(Event):
    """What was made of another cut's checkpoint."""

    event: str = "carried"
    notes: tuple[str, ...]


Record = StepRecord | Restarted | Healed | Carried


@dataclass(frozen=True, kw_only=True)
class Report:
    """How a worker is, and its records since the last report that was sent. `refused` counts the
    connections of strangers in all generations; `result_sha256` is of the weights that it has to
    hand in, and empty before its end."""

    block: int
    generation: int
    state: str
    seconds: Seconds
    queue_depth: int
    rss_bytes: int
    dropped_reports: int
    refused: int
    result_sha256: str
    records: tuple[Record, ...]


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a worker has counted, in all its generations."""

    sent: int = 0
    trained: int = 0
    stale_ties: int = 0
    retrained: int = 0
    bad_steps: int = 0
    duplicates_dropped: int = 0
    replayed: int = 0
    fenced: int = 0
    damaged: int = 0
    refused: int = 0
    dropped_reports: int = 0


@dataclass(frozen=True, kw_only=True)
class WorkerResult:
    """What the summary needs of a worker. `seconds` are of its last generation, and `steady` of
    its steady state; `last` is the latest step of this generation. `staleness` counts ties by how
    many steps old they were; `digests` are of its whole state."""

    block: int
    generation: int
    seconds: Seconds
    steady: Seconds | None
    peak_rss_bytes: int
    first_step_t: float | None
    last: StepRecord | None
    counters: Counters
    staleness: dict[str, dict[str, int]]
    digests: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 on held-out images."""

    linear_top1: float | None = None
    knn_top1: float | None = None


@dataclass(frozen=True, kw_only=True)
class UnitAccuracy(Accuracy):
    """That of the features after one unit."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Evaluation(Accuracy):
    """That of the features after one unit, and all that it was measured by, as launch/evaluate.py
    writes it.

    `block` is the one whose home ends there. Images are counted if they have a label, classes if a
    training image has them. `split`, `validation` and `seed` are of the data: with validation, what
    is called test are training images that were held out. The seed draws sgd's order too. The k of
    `protocol` is how many neighbours voted, which may be fewer than were asked for.
    """

    run: str
    weights_sha256: str
    data: str
    split: int
    validation: float
    num_train: int
    num_test: int
    num_classes: int
    seed: int
    protocol: dict[str, Any]
    unit: str
    block: int | None
    num_features: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Counted whole numbers; `counts` is by number."""

    num: int
    median: int
    p95: int
    max: int
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class BlockSummary(Seconds):
    """One block: its seconds, as in its worker's result, and what became of it. `staleness` is by
    tie, and empty if the lag is fixed; a negative one is of a neighbour that was ahead."""

    index: int
    units: tuple[str, ...]
    guest_units: tuple[str, ...]
    loss: float | None
    probe_top1: float | None
    utilisation: float | None
    steady: Seconds | None
    bad_steps: int
    fenced: int
    damaged: int
    refused: int
    dropped_reports: int
    staleness: dict[str, Spread]
    stale_ties: int
    restarts: int
    peak_rss_bytes: int


@dataclass(frozen=True, kw_only=True)
class Restart:
    """A worker's restart; `healed_s` is None if it died again before it was healed."""

    block: int
    generation: int
    cause: str
    detected_t: float
    from_step: int
    completed_before: int
    healed_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bubble:
    """The pipeline's bubble, and those of lock-step schedules (see runtime.records.bubbles)."""

    measured: float | None
    shares_cores: bool
    fill_steps: int
    microbatches: int
    gpipe_and_1f1b: float
    zb_h1: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to; blocks and units lowest first. `batches` are all workers' counts by what
    became of a batch, which counts once for each block that it came to; `replayed` and
    `duplicates_dropped` count messages of all streams. `restarts` are those since the run began,
    also by earlier commands; `wall_s` and a block's `restarts` are this command's. `refused` counts
    the strangers at the sockets of all processes."""

    samples_per_s: float | None
    wall_s: float
    time_to_first_step_s: float | None
    steps: int
    weights_sha256: str
    state_sha256: str
    final: Accuracy
    units: tuple[UnitAccuracy, ...]
    blocks: tuple[BlockSummary, ...]
    batches: dict[str, int]
    restarts: tuple[Restart, ...]
    refused: int
    bubble: Bubble | None


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """Read a record, and the records in it. Raises ValueError unless the keys are its fields."""
    types = _types(kind)
    unknown, missing = values.keys() - types.keys(), types.keys() - values.keys()
    for wrong, names in (("unknown", unknown), ("missing", missing)):
        if names:
            raise ValueError(f"{kind.__name__} with {wrong} keys: {', '.join(sorted(names))}")
    return kind(**{name: _read(hint, values[name]) for name, hint in types.items()})


def read_record(values: Mapping[str, Any]) -> Record:
    """Read a line of metrics.jsonl. Raises ValueError."""
    record: Record = _read(Record, values)
    return record


def checked(record: T) -> T:
    """The record, if each of its fields is what it should be. Raises ValueError: one that has come
    over a socket may hold anything."""
    for name, hint in _types(record).items():
        if not _fits(hint, value := getattr(record, name)):
            raise ValueError(f"{type(record).__name__} with {name} {value!r:.60}")
    return record


def _fits(hint: Any, value: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(kind, value) for kind in get_args(hint))
    if get_origin(hint) is tuple:
        return type(value) is tuple and all(_fits(get_args(hint)[0], item) for item in value)
    if get_origin(hint) is dict:
        key, item = get_args(hint)
        return type(value) is dict and all(
            _fits(key, k) and _fits(item, v) for k, v in value.items()
        )
    if is_dataclass(hint):
        return type(value) is hint and bool(checked(value))
    if hint is float:
        return type(value) in (float, int)
    return value is None if hint is NoneType else type(value) is hint


def _types(kind: Any) -> dict[str, Any]:
    return {field.name: field.type for field in fields(kind)}


def _read(hint: Any, value: Any) -> Any:
    """Read a field: of a union the record with these keys, of a tuple or dict each item."""
    if get_origin(hint) is tuple:
        return tuple(_read(get_args(hint)[0], item) for item in value)
    if get_origin(hint) is dict:
        return {key: _read(get_args(hint)[1], item) for key, item in value.items()}
    kinds: list[Any] = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
    if not kinds or value is None:
        return value
    fitting = (kind for kind in kinds if _types(kind).keys() == value.keys())
    return from_dict(next(fitting, kinds[0]), value)


def common_fields(kind: type, record: object) -> dict[str, Any]:
    """Those fields of a record that `kind` has too."""
    names = [field.name for field in fields(kind)]
    return {name: getattr(record, name) for name in names if hasattr(record, name)}
