"""The configuration of a run in its two stages: what the user gave, and what it resolved to.

Owns every key with its type, default, role and check: what can be said about a run without loading
anything. launch.config_file reads and writes it; what needs the network, the data or the machine
is checked in launch.resolve. Must not import torch, zmq or scikit-learn: light processes read it.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from cyclopts import Parameter, Token

from runtime.faults import plan as faults

Method = Literal["local", "e2e"]
Precision = Literal["fp32", "bf16"]
WirePrecision = Literal["exact", "fp16", "bf16"]
Tie = Literal["gradient", "elastic", "follow", "none"]
Schedule = Literal["constant", "cosine"]
Balance = Literal["auto", "profiled"]
Overlap = int | tuple[int, ...] | Literal["stage"]
Device = Literal["auto", "cpu", "cuda"]
Link = Literal["auto", "shm", "zmq", "zmq-ipc", "zmq-tcp", "gloo", "nccl"]
Checksum = Literal["auto", "header", "payload"]

BALANCES = get_args(Balance)
WIRE_PRECISIONS = get_args(WirePrecision)
NONE = "none"  # takes a value back that a file has, where none need be given
DEFAULT_LAG = 1  # steps
DEFAULT_MAX_STALENESS = 8


class ConfigError(ValueError):
    """What a user asked for can't be done; the message says why and what to do instead."""


class HostError(ConfigError):
    """What is wrong on this host, and may be right on the others."""


class Role(Enum):
    """What a key is to a run: what becomes of another value of it when the run is resumed, and
    whether a config.toml, which repeats its run, takes the flag (RUNNING and PLACE only)."""

    RESULT = "makes up what is learned: with another value it is another run, and not resumed"
    CUT = "says which blocks there are: learning continues in others, as far as it can"
    LENGTH = "says how long the run is: it may be extended; a flag replaces all that a file says"
    BITS = "changes what is learned in the last bits only, or what timing decides anyway"
    RUNNING = "says how the run is run; nothing that is learned depends on it, save a `nan` fault"
    PLACE = "says where the run's files are"


def _convert_list(_: type, tokens: Sequence[Token]) -> tuple[int, ...]:
    text, source = tokens[0].value, tokens[0].source
    return tuple(to_whole(part, source) for part in text.split(",") if part.strip())


def _convert_words(_: type, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(part.strip() for part in tokens[0].value.split(",") if part.strip())


def _convert_scales(_: type, tokens: Sequence[Token]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in tokens[0].value.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no list of numbers, such as 1,1,.5") from None


def _convert_cuts(type_: type, tokens: Sequence[Token]) -> tuple[int, ...] | str | None:
    text = tokens[0].value.strip()
    if text == NONE:
        return None
    if text in BALANCES:
        return text
    try:
        return _convert_list(type_, tokens)
    except ValueError as error:
        raise ValueError(f"{error}; give first units, such as 0,1,2,3, auto or profiled") from None


def _convert_overlap(type_: type, tokens: Sequence[Token]) -> Overlap | None:
    text = tokens[0].value.strip()
    if text == NONE:
        return None
    if text == "stage":
        return "stage"
    try:
        units = _convert_list(type_, tokens)
        if not units:  # that of one block, to which a run may resolve, but nobody asks for by this
            raise ValueError(f"{text!r} holds no number (was a variable not set?)")
    except ValueError as error:
        raise ValueError(f"{error}; give units, one number per edge, or stage") from None
    return units[0] if len(units) == 1 else units


def _convert_lag(_: type, tokens: Sequence[Token]) -> int | None:
    if tokens[0].value == NONE:
        return None
    try:
        return to_whole(tokens[0].value, tokens[0].source)
    except ValueError as error:
        raise ValueError(f"{error}; to fix no lag, give --free-ties") from None


def to_whole(text: str, source: str) -> int:
    """Convert strictly, for cyclopts would round 1.5 to 2. Raises ValueError."""
    try:
        return int(text)
    except ValueError:
        where = "" if source == "cli" else f" ({source})"
        raise ValueError(f"{text.strip()!r} is not a whole number{where}") from None


IntList = Annotated[tuple[int, ...], Parameter(converter=_convert_list, n_tokens=1, negative="")]
Scales = Annotated[tuple[float, ...], Parameter(converter=_convert_scales, n_tokens=1, negative="")]
WirePrecisions = Annotated[
    tuple[WirePrecision, ...], Parameter(converter=_convert_words, n_tokens=1, negative="")
]
Cuts = Annotated[
    tuple[int, ...] | Balance | None,
    Parameter(converter=_convert_cuts, n_tokens=1, negative=""),
]
OverlapUnits = Annotated[
    Overlap | None,
    Parameter(converter=_convert_overlap, n_tokens=1, negative=""),
]
Lag = Annotated[int | None, Parameter(converter=_convert_lag, negative="")]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the user gave. Each field is a flag and a key of the config file, in kebab-case.

    None leaves a choice to launch.resolve. A field without a Role beside its type is RESULT.
    Two configs are equal if they give the same run: the fields of Role.PLACE are not compared.
    """

    method: Method = "local"
    """Local blocks, or end-to-end training with one loss at the top as the baseline."""
    model: str = "resnet-small"
    """Network by name, or package.module:function or path/file.py:function of your own."""
    data: str = "digits"
    """Data by name (digits, synthetic:CxHxW), by layout and path (cifar10:PATH; docs/semantics.md
    has all layouts), or a function of your own, named likewise."""
    split: int = 0
    """Which fold of the digits is held out."""
    validation: float = 0.0
    """Share of the training images that is held out in place of the test images, which are then not
    loaded; for choosing settings."""
    train_images: int | None = None
    """Number of training images that are used, a draw of each class that no seed moves; without it
    all."""
    image_size: int | None = None
    """Side to which a folder's images are scaled (their short side) and centre-cropped; without it
    they must all have one size."""
    views: str = "auto"
    """How images are augmented: auto (as suits the data), simclr, affine, or a factory of your own,
    package.module:function or path/file.py:function."""
    workers: Annotated[int | None, Role.CUT] = None
    """Worker processes, one per block; without it the launcher's world size, else as many as cuts
    or a list of overlaps ask for, else at most 4."""
    cuts: Annotated[Cuts, Role.CUT] = None
    """First unit of each home, such as 0,1,2,3; auto balances the blocks by counted FLOPs, profiled
    by times measured here; without it the network's own cut for so many workers if it has one that
    fits, else auto."""
    max_memory_mb: Annotated[int | None, Role.CUT] = None
    """Megabytes that a worker may take beside Python and torch, as estimated before the start."""
    overlap: Annotated[OverlapUnits, Role.CUT] = None
    """Units that each block shares with the next: one number for all edges, one per edge (4,6), or
    stage: from the cut to the end of that stage (LoCo); 0 is Greedy InfoMax. Without it stage if
    the network has stages, else 1."""
    tie: Tie = "elastic"
    """How the two replicas of shared units are held together: by each other's gradient (LoCo), by a
    pull between them, by letting the guest, itself untrained, follow the home, or not at all."""
    lag: Lag = None
    """How many steps old the tie from the block above is; without it 1."""
    free_ties: bool = False
    """Take whatever ties have arrived, under no fixed lag; no two such runs are alike."""
    max_staleness: Annotated[int | None, Role.BITS] = None
    """With free-ties, the most steps a tie may be old: a step waits rather than use an older one;
    without it 8."""
    alpha: float = 0.02
    """Pull of the ties elastic and follow, from 0 to 1; at 1 a guest that follows is a copy."""
    objective: str = "nt-xent"
    """Local loss by name (nt-xent, cross-entropy), or a factory of your own."""
    temperature: float = 0.2
    """Temperature of NT-Xent."""
    head: str = "mlp"
    """Head of each block by name (mlp: residual conv blocks, pooling, two layers; mlp-bn: with a
    BatchNorm after either layer, as SimCLR's), or a factory of your own."""
    head_hidden: int | None = None
    """Width of the hidden layer in the heads mlp and mlp-bn; without it 256."""
    head_features: int | None = None
    """Width of what the heads mlp and mlp-bn give, for a loss that takes any; without it 64."""
    decoder_depth: IntList = (1,)
    """Residual conv blocks in a head: one figure for all blocks, or one per block (1,1,1,0)."""
    optimizer: str = "adamw"
    """Optimizer by name (sgd, adamw, lars), or a function of your own."""
    lr: float = 2e-3
    """Highest learning rate."""
    weight_decay: float = 1e-4
    """Weight decay of weights, but for those of norms, biases and other vectors."""
    lr_scale: Scales = (1.0,)
    """Factor of the learning rate: one for all blocks, or one per block (1,1,.5); a guest has that
    of its home."""
    grad_clip: float | None = None
    """Highest norm of a block's own gradient, above which it is scaled down before any tie."""
    schedule: Schedule = "cosine"
    """Learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises."""
    epochs: Annotated[int, Role.LENGTH] = 12
    """Passes over the training images; ignored if steps is given."""
    steps: Annotated[int | None, Role.LENGTH] = None
    """Training steps, instead of epochs."""
    batch_size: int = 64
    """Images per step, each in two views."""
    seed: int = 0
    """Seed of every random draw."""
    precision: Precision = "fp32"
    """What units and heads compute in; bf16 is torch's autocast: weights, gradients, statistics and
    losses stay in float32."""
    wire_precision: WirePrecisions = ("exact",)
    """In what activations cross an edge: exact, as they are computed, or rounded to fp16 or bf16,
    which halves the bytes of fp32: one for all edges, or one per edge (exact,bf16,exact)."""
    wire_ties: bool = False
    """Round the ties of those edges, too: gradients or weights."""
    channels_last: bool = False
    """Images lie in memory with their channels last, which is faster on some processors."""
    recompute: bool = False
    """Save each unit's input only, and run the unit again in the backward: less memory, more work,
    the same bits."""
    compile: bool = False
    """Compile each unit by torch.compile before the first step: faster steps, other bits, and some
    seconds a unit."""
    threads: Annotated[int | None, Role.BITS] = None
    """Compute threads per worker; without it cores / workers."""
    device: Annotated[Device, Role.BITS] = "auto"
    """Where workers compute; auto takes GPUs if there are any."""
    link: Annotated[Link, Role.RUNNING] = "auto"
    """How workers talk; auto shares memory within a host and takes tcp between hosts. nccl needs a
    GPU for each worker."""
    checksum: Annotated[Checksum, Role.RUNNING] = "auto"
    """What checksums guard; auto: headers in shared memory, tensors too on every wire."""
    window: Annotated[int | None, Role.RUNNING] = None
    """Activations in flight on an edge; without it max(2, lag + 1), or
    max-staleness + 1 with free-ties."""
    bind: Annotated[str, Role.PLACE] = field(default="auto", compare=False)
    """Where this host's sockets listen: an address, an interface, a network such as 10.0.0.0/8;
    auto is loopback if all ranks are on one host, else the address that faces MASTER_ADDR."""
    encrypt_tensors: Annotated[bool, Role.RUNNING] = False
    """Encrypt all that crosses a network. Without it tensors can be read there, but not changed,
    and cross about twice as fast."""
    insecure_network: Annotated[bool, Role.RUNNING] = False
    """Run on several hosts without a secret-file, or by gloo or nccl: whoever reaches the sockets
    can take part in the job, and write files as you."""
    report_every_s: Annotated[float, Role.RUNNING] = 0.5
    """Seconds between a worker's reports."""
    snapshot_every: Annotated[int | None, Role.RUNNING] = None
    """Steps between a worker's snapshots in memory; without it at most 4, as the blocks' own memory
    and retain-mb allow."""
    retain_mb: Annotated[int | None, Role.RUNNING] = None
    """Megabytes a worker may use for what must outlive it: messages it has sent, a snapshot, a part
    of a checkpoint; without it 1024, or what they need if that is more."""
    checkpoint_every: Annotated[int | None, Role.RUNNING] = None
    """Steps between checkpoints on disk; without it an epoch."""
    hang_timeout_s: Annotated[float, Role.RUNNING] = 60.0
    """Seconds after which a worker that makes no progress is replaced; a first step may take 5x."""
    phase_timeout_s: Annotated[float, Role.RUNNING] = 600.0
    """Seconds that a phase outside the steps may take: loading the data, building, evaluating."""
    rank_timeout_s: Annotated[float, Role.RUNNING] = 90.0
    """Seconds without news of a rank after which the job ends, so that its launcher can start it
    anew."""
    max_worker_restarts: Annotated[int, Role.RUNNING] = 3
    """Restarts of one worker in five minutes, or in a row without progress, beyond which the job
    ends."""
    max_bad_steps: Annotated[int, Role.RUNNING] = 10
    """Steps in a row that a block may skip because its numbers are not finite."""
    quick_end: Annotated[bool, Role.RUNNING] = False
    """End without evaluating."""
    trace: Annotated[bool, Role.RUNNING] = False
    """Write a timeline that opens in Perfetto: trace.json in the run directory."""
    faults: Annotated[str, Role.RUNNING] = ""
    """What is to go wrong, on purpose: kill:1@40,drop:0-1@70 (docs/fault-tolerance.md has all)."""
    fresh: Annotated[bool, Role.PLACE] = field(default=False, compare=False)
    """Start over in a run directory that holds a run, or a checkpoint directory that holds its
    checkpoints."""
    run_dir: Annotated[Path | None, Role.PLACE] = field(default=None, compare=False)
    """Directory that receives the run, or holds one to resume; else a new one in runs/."""
    checkpoint_dir: Annotated[str | None, Role.PLACE] = field(default=None, compare=False)
    """Directory or URL (s3://bucket/run) that receives the run's checkpoints, or holds those of one
    to resume, in another run directory too; else checkpoints/ in the run directory."""
    share_run_dir: Annotated[bool, Role.PLACE] = field(default=False, compare=False)
    """Write the run directory as the umask says; without it others can't read it."""
    secret_file: Annotated[Path | None, Role.PLACE] = field(default=None, compare=False)
    """File with the job's secret, the same on all hosts; on one host a key of your own is used."""
    config: Annotated[Path | None, Role.PLACE] = field(default=None, compare=False)
    """TOML file of these same keys; flags win over it."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            # Bytes that are no UTF-8 come as surrogates, and can't be told to other processes.
            if isinstance(value, str | Path) and any("\ud800" <= c <= "\udfff" for c in str(value)):
                raise ConfigError(f"{kebab(name)} {str(value)!r} is not UTF-8; give a name that is")
        for name, holds, remedy in RULES:
            value = getattr(self, name)
            if value is not None and not holds(value):
                shown = show(value) or "''"
                raise ConfigError(f"{kebab(name)} {shown} is not allowed; {remedy}")
        if self.free_ties and self.lag is not None:
            raise ConfigError(
                f"lag {self.lag} and free-ties exclude each other; leave one of them out"
            )
        if self.max_staleness is not None and not self.free_ties:
            raise ConfigError(
                f"max-staleness {self.max_staleness} is not allowed under a fixed lag; give"
                " --free-ties, or leave --max-staleness out"
            )
        _check_head(self)
        _check_wire_ties(self)
        try:
            faults.parse(self.faults)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def depth_of(self, block_index: int) -> int:
        """The residual conv blocks in one block's head."""
        depths = self.decoder_depth
        return depths[block_index] if len(depths) > 1 else depths[0]

    def lr_scale_of(self, block_index: int) -> float:
        """The factor of one block's learning rate."""
        scales = self.lr_scale
        return scales[block_index] if len(scales) > 1 else scales[0]

    def wire_precision_of(self, edge: int) -> WirePrecision:
        """In what activations cross the edge between blocks `edge` and `edge` + 1."""
        precisions = self.wire_precision
        return precisions[edge] if len(precisions) > 1 else precisions[0]

    @property
    def longest_lag(self) -> int:
        """How many steps old a tie from above can be."""
        if self.free_ties:
            return DEFAULT_MAX_STALENESS if self.max_staleness is None else self.max_staleness
        return DEFAULT_LAG if self.lag is None else self.lag

    @property
    def lag_in_words(self) -> str:
        """The lag, or that there is none."""
        return "free ties" if self.free_ties else f"lag {self.longest_lag}"


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(RunConfig):
    """What it resolved to: nothing is left open; with free ties there is no `lag`.

    `given` is what it was resolved from. `earlier_lengths` holds pairs (step, length), oldest
    first: below that step the learning rate's schedule was laid over that many steps, since the
    run was resumed there with another length. `processor` says what the machine can do that it
    ran on, and `torch` which build it ran with, since bits depend on these; `data_sizes` and
    `data_digest` what data it found, and `code` digests of the files of the user's code.
    """

    workers: int = field()
    cuts: tuple[int, ...] = field()
    overlap: tuple[int, ...] = field()
    steps: int = field()
    threads: int = field()
    window: int = field()
    snapshot_every: int = field()
    retain_mb: int = field()
    checkpoint_every: int = field()
    device: Literal["cpu", "cuda"] = field()
    link: Link = field()
    given: RunConfig = field(compare=False)
    earlier_lengths: tuple[tuple[int, int], ...] = ()
    processor: str = field(default="", compare=False)
    torch: str = field(default="", compare=False)
    code: str = field(default="", compare=False)
    data_sizes: str = field(default="", compare=False)
    data_digest: str = field(default="", compare=False)


def _begins_with_0(cuts: tuple[int, ...] | Balance) -> bool:
    return cuts in BALANCES or cuts[:1] == (0,)


def _is_rising(cuts: tuple[int, ...] | Balance) -> bool:
    return isinstance(cuts, str) or all(a < b for a, b in itertools.pairwise(cuts))


def _is_overlap(overlap: Overlap) -> bool:
    units = overlap if isinstance(overlap, tuple) else (overlap,)
    return overlap == "stage" or all(isinstance(num, int) and num >= 0 for num in units)


def _is_wire_precision(precisions: tuple[str, ...]) -> bool:
    return len(precisions) > 0 and set(precisions) <= set(WIRE_PRECISIONS)


# What each field must satisfy on its own, and what to do if it does not.
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("split", lambda v: v >= 0, "give 0 or more"),
    ("validation", lambda v: 0 <= v < 1, "give a share from 0 to below 1, such as 0.1"),
    ("train_images", lambda v: v >= 2, "give at least 2 images"),
    ("image_size", lambda v: 1 <= v <= 4096, "give 1 to 4096 pixels, such as 64"),
    ("workers", lambda v: v >= 1, "give at least 1"),
    ("cuts", _begins_with_0, "begin with 0, the first unit of the network"),
    ("cuts", _is_rising, "give the first unit of each home in rising order, such as 0,1,2,3"),
    ("max_memory_mb", lambda v: v >= 1, "give at least 1"),
    ("overlap", _is_overlap, "give 0 or more units, one number per edge, or stage"),
    ("lag", lambda v: v >= 0, "give 0 or more steps; 0 ties neighbours step by step"),
    ("max_staleness", lambda v: v >= 1, "give at least 1 step"),
    ("alpha", lambda v: 0 <= v <= 1, "give a pull from 0 to 1, such as 0.02"),
    ("temperature", lambda v: 0 < v < math.inf, "give a figure above 0, such as 0.5"),
    ("head_hidden", lambda v: v >= 1, "give at least 1, such as 256"),
    ("head_features", lambda v: v >= 1, "give at least 1, such as 64"),
    ("decoder_depth", lambda v: len(v) > 0 and min(v) >= 0, "give 0 or more conv blocks, as in 1"),
    ("lr", lambda v: 0 < v <= 1e6, "give a rate above 0, such as 0.002"),
    ("weight_decay", lambda v: 0 <= v <= 1e6, "give 0 or more, such as 0.0001"),
    ("lr_scale", lambda v: len(v) > 0 and all(0 < s <= 1e6 for s in v), "give factors above 0"),
    ("grad_clip", lambda v: 0 < v < math.inf, "give a norm above 0, such as 1"),
    ("warmup_steps", lambda v: v >= 0, "give 0 or more steps"),
    ("epochs", lambda v: v >= 1, "give at least 1"),
    ("steps", lambda v: v >= 1, "give at least 1"),
    ("batch_size", lambda v: v >= 2, "give at least 2 images, for a loss contrasts them"),
    ("seed", lambda v: v >= 0, "give 0 or more"),
    (
        "wire_precision",
        _is_wire_precision,
        "give exact, fp16 or bf16, one for all edges or one per edge (exact,bf16,exact)",
    ),
    ("threads", lambda v: 1 <= v <= 1024, "give 1 to 1024"),
    ("window", lambda v: v >= 2, "give at least 2, so that one moves while one is computed"),
    ("report_every_s", lambda v: 0 < v < math.inf, "give seconds above 0, such as 0.5"),
    ("snapshot_every", lambda v: v >= 1, "give at least 1 step"),
    ("retain_mb", lambda v: v >= 1, "give at least 1"),
    ("checkpoint_every", lambda v: v >= 1, "give at least 1 step"),
    ("checkpoint_dir", lambda v: bool(v.strip()), "give a directory or a URL; was it not set?"),
    ("hang_timeout_s", lambda v: 0.5 <= v <= 1e6, "give 0.5 to 1,000,000 s"),
    ("rank_timeout_s", lambda v: 20 <= v <= 1e6, "give 20 to 1,000,000 s"),
    ("phase_timeout_s", lambda v: 1 <= v <= 1e6, "give 1 to 1,000,000 s"),
    ("max_worker_restarts", lambda v: v >= 0, "give 0 or more; 0 ends the job at once"),
    ("max_bad_steps", lambda v: v >= 1, "give at least 1"),
)

ROLES = {
    name: next((mark for mark in get_args(hint) if isinstance(mark, Role)), Role.RESULT)
    for name, hint in get_type_hints(RunConfig, include_extras=True).items()
}


def _check_head(config: RunConfig) -> None:
    """Raise ConfigError if a user's head is to have the widths of ours."""
    widths = {"head-hidden": config.head_hidden, "head-features": config.head_features}
    for name, width in widths.items():
        if width is not None and config.head not in ("mlp", "mlp-bn"):
            raise ConfigError(
                f"{name} {width} is not allowed with head {config.head}, which has its own widths;"
                " leave it out, or give --head mlp or mlp-bn"
            )


def _check_wire_ties(config: RunConfig) -> None:
    """Raise ConfigError if ties are to be rounded and there are none, or none on such an edge, or
    if one that can't be sent would be waited for for ever."""
    if not config.wire_ties:
        return
    if set(config.wire_precision) == {"exact"}:
        raise ConfigError(
            f"wire-ties is not allowed with wire-precision {show(config.wire_precision)}, which"
            " rounds nothing; give --wire-precision bf16, or leave --wire-ties out"
        )
    if config.tie == "none":
        raise ConfigError(
            "wire-ties is not allowed with tie none, which sends nothing; give another --tie, or"
            " leave --wire-ties out"
        )
    if config.free_ties and config.tie != "gradient" and "fp16" in config.wire_precision:
        raise ConfigError(
            f"wire-precision {show(config.wire_precision)} is not allowed with free-ties and"
            " wire-ties: for weights that overflow in fp16 a neighbour would wait for ever; give"
            " bf16, a fixed --lag, or leave --wire-ties out"
        )


def kebab(name: str) -> str:
    """A field's name as a flag and a file have it."""
    return name.replace("_", "-")


def show(value: object) -> str:
    """A field's value as a flag has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def refuse_free_ties(config: RunConfig) -> None:
    """Raise ConfigError if a program without timing is to take what has arrived."""
    if config.free_ties:
        raise ConfigError(
            "free-ties take what has arrived, and in one process nothing travels; give a fixed lag,"
            " such as --lag 1, or use launch/pipeline.py"
        )
