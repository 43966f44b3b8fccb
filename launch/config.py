"""The configuration of a run: every flag, every key of the config file, and their checks.

Owns what can be said about a run without loading anything. Must not import torch, zmq or
scikit-learn: light processes read it. What needs the network, the data or the machine is
checked in launch.resolve.
"""

import dataclasses
import difflib
import itertools
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import cyclopts
import tomli_w
from cyclopts import App, ArgumentCollection, Parameter, Token
from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

from runtime.faults import plan as faults

Method = Literal["local", "e2e"]
Tie = Literal["gradient", "elastic", "none"]
Schedule = Literal["constant", "cosine"]
Balance = Literal["auto", "profiled"]
Device = Literal["auto", "cpu", "cuda"]
Link = Literal["auto", "shm", "zmq", "zmq-ipc", "zmq-tcp", "gloo", "nccl"]
Checksum = Literal["auto", "header", "payload"]

BALANCES = get_args(Balance)
DEFAULT_LAG = 1  # steps
DEFAULT_MAX_STALENESS = 8


class ConfigError(ValueError):
    """What a user asked for can't be done; the message says why and what to do instead."""


def _convert(type_: type, tokens: Sequence[Token]) -> Any:
    """Convert a flag's text; whole numbers strictly, for cyclopts would round 1.5 to 2."""
    if type_ is int:
        return _whole(tokens[0].value, tokens[0].source)
    if Path in (type_, *get_args(type_)) and not tokens[0].value:
        raise ValueError("the path is empty; was a variable not set?")
    return cyclopts.convert(type_, tokens)


def _convert_list(_: type, tokens: Sequence[Token]) -> tuple[int, ...]:
    text, source = tokens[0].value, tokens[0].source
    return tuple(_whole(part, source) for part in text.split(",") if part.strip())


def _convert_cuts(type_: type, tokens: Sequence[Token]) -> tuple[int, ...] | str:
    text = tokens[0].value.strip()
    return text if text in BALANCES else _convert_list(type_, tokens)


def _convert_lag(_: type, tokens: Sequence[Token]) -> int:
    try:
        return _whole(tokens[0].value, tokens[0].source)
    except ValueError as error:
        raise ValueError(f"{error}; to fix no lag, give --free-ties") from None


def _whole(text: str, source: str) -> int:
    try:
        return int(text)
    except ValueError:
        where = "" if source == "cli" else f" ({source})"
        raise ValueError(f"{text.strip()!r} is not a whole number{where}") from None


IntList = Annotated[tuple[int, ...], Parameter(converter=_convert_list, n_tokens=1, negative="")]
Cuts = Annotated[
    tuple[int, ...] | Balance | None,
    Parameter(converter=_convert_cuts, n_tokens=1, negative=""),
]
Lag = Annotated[int | None, Parameter(converter=_convert_lag, negative="")]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. Each field is a flag and a key of the config file, both written in kebab-case.

    Two configs are equal where they give the same run: `run_dir`, `fresh` and `config` say only
    where it is written, over what, and where it came from. None leaves a choice to launch.resolve.
    """

    method: Method = "local"
    """Local blocks, or end-to-end training with one loss at the top as the baseline."""
    model: str = "resnet-small"
    """Network by name, or package.module:function or path/file.py:function of your own."""
    data: str = "digits"
    """Data by name (digits, synthetic:CxHxW), or a function of your own, named likewise."""
    split: int = 0
    """Which fold of the digits is held out."""
    workers: int | None = None
    """Worker processes, one a block; without it torchrun's world size, else 4."""
    cuts: Cuts = None
    """First unit of each home, such as 0,1,2,3; auto balances the blocks by counted FLOPs, profiled
    by times measured here; without it LoCo's cut where that serves, else auto."""
    max_memory_mb: int | None = None
    """Megabytes that a worker may take beside Python and torch, as estimated before the start."""
    overlap: int = 1
    """Units that each block shares with the next; 0 is Greedy InfoMax."""
    tie: Tie = "elastic"
    """How the two replicas of shared units are held together."""
    lag: Lag = None
    """Age, in steps, of what comes down from the block above; without it 1."""
    free_ties: bool = False
    """Take whatever ties have arrived, under no fixed lag; no two such runs are alike."""
    max_staleness: int | None = None
    """Steps: with free-ties, a tie that is older is waited for; without it 8."""
    alpha: float = 0.02
    """Pull of the elastic tie, from 0 to 1."""
    objective: str = "nt-xent"
    """Local loss by name (nt-xent, cross-entropy), or a factory of your own."""
    temperature: float = 0.2
    """Temperature of NT-Xent."""
    decoder_depth: IntList = (1,)
    """Residual conv blocks in a head: one figure for all blocks, or one a block (1,1,1,0)."""
    optimizer: str = "adamw"
    """Optimizer by name (sgd, adamw), or a function of your own."""
    lr: float = 2e-3
    """Highest learning rate."""
    weight_decay: float = 1e-4
    """Weight decay of matrices and kernels."""
    schedule: Schedule = "cosine"
    """Learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises."""
    epochs: int = 12
    """Passes over the training images; ignored where steps is given."""
    steps: int | None = None
    """Training steps, instead of epochs."""
    batch_size: int = 64
    """Images a step, each in two views."""
    seed: int = 0
    """Seed of every random draw."""
    threads: int | None = None
    """Compute threads a worker; without it cores / workers."""
    device: Device = "auto"
    """Where workers compute; auto takes GPUs where there are any."""
    link: Link = "auto"
    """How workers talk; auto shares memory within a host and takes tcp between hosts. nccl is
    not built: auto is used, and the run says why."""
    checksum: Checksum = "auto"
    """What checksums guard; auto: headers in shared memory, tensors too on every wire."""
    window: int | None = None
    """Activations in flight on an edge; without it max(2, lag + 1)."""
    bind: str = "127.0.0.1"
    """Address that sockets bind to."""
    report_every_s: float = 0.5
    """Seconds between a worker's reports."""
    snapshot_every: int | None = None
    """Steps between a worker's snapshots in memory; without it at most 4, as retain-mb allows."""
    retain_mb: int = 1024
    """Megabytes a worker may use for what must outlive it: messages it has sent, snapshots."""
    checkpoint_every: int | None = None
    """Steps between checkpoints on disk; without it an epoch."""
    hang_timeout_s: float = 60.0
    """Seconds after which a worker that makes no progress is replaced; a first step may take 5x."""
    phase_timeout_s: float = 600.0
    """Seconds that a phase outside the steps may take: loading the data, building, evaluating."""
    max_worker_restarts: int = 3
    """Restarts of one worker in five minutes, beyond which the job ends."""
    max_bad_steps: int = 10
    """Steps in a row that a block may skip because its numbers are not finite."""
    time_alone_s: float = 1.5
    """Seconds for which each block is timed alone at the end, 100 steps at most."""
    quick_end: bool = False
    """End without evaluating and without timing each block alone."""
    trace: bool = False
    """Write a timeline that opens in Perfetto: trace.json in the run directory."""
    faults: str = ""
    """What is to go wrong, on purpose: kill:1@40,drop:0-1@70 (docs/fault-tolerance.md has all)."""
    fresh: bool = field(default=False, compare=False)
    """Start over in a run directory that holds a run."""
    run_dir: Path | None = field(default=None, compare=False)
    """Directory that receives the run, or holds one to go on with; else a new one in runs/."""
    config: Path | None = field(default=None, compare=False)
    """TOML file of these same keys; flags win over it."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, str | Path) and not _is_utf8(str(value)):
                raise ConfigError(
                    f"{_kebab(name)} {str(value)!r} is not UTF-8; give a name that is"
                )
        for name, holds, remedy in _RULES:
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ConfigError(f"{_kebab(name)} {_show(value)} can't be; {remedy}")
        if self.free_ties and self.lag is not None:
            raise ConfigError(
                f"lag {self.lag} can't be with free-ties, under which none is fixed; leave one of"
                " them out"
            )
        if self.max_staleness is not None and not self.free_ties:
            raise ConfigError(
                f"max-staleness {self.max_staleness} can't be under a fixed lag; give --free-ties,"
                " or leave --max-staleness out"
            )
        try:
            faults.parse(self.faults)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def depth_of(self, block_index: int) -> int:
        """The residual conv blocks in one block's head."""
        depths = self.decoder_depth
        return depths[block_index] if len(depths) > 1 else depths[0]

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


def _begins_with_0(cuts: tuple[int, ...] | Balance) -> bool:
    return cuts in BALANCES or cuts[:1] == (0,)


def _is_rising(cuts: tuple[int, ...] | Balance) -> bool:
    return isinstance(cuts, str) or all(a < b for a, b in itertools.pairwise(cuts))


def _is_utf8(text: str) -> bool:
    """Whether it can be told to other processes; a path of other bytes can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# What each field must satisfy on its own, and what to do where it does not.
_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("split", lambda v: v >= 0, "give 0 or more"),
    ("workers", lambda v: v >= 1, "give at least 1"),
    ("cuts", _begins_with_0, "begin with 0, the first unit of the network"),
    ("cuts", _is_rising, "give the first unit of each home in rising order, such as 0,1,2,3"),
    ("max_memory_mb", lambda v: v >= 1, "give at least 1"),
    ("overlap", lambda v: v >= 0, "give 0 or more units; 0 shares nothing"),
    ("lag", lambda v: v >= 0, "give 0 or more steps; 0 ties neighbours step by step"),
    ("max_staleness", lambda v: v >= 1, "give at least 1 step"),
    ("alpha", lambda v: 0 <= v <= 1, "give a pull from 0 to 1, such as 0.02"),
    ("temperature", lambda v: 0 < v < math.inf, "give a figure above 0, such as 0.5"),
    ("decoder_depth", lambda v: len(v) > 0 and min(v) >= 0, "give 0 or more conv blocks, as in 1"),
    ("lr", lambda v: 0 < v <= 1e6, "give a rate above 0, such as 0.002"),
    ("weight_decay", lambda v: 0 <= v <= 1e6, "give 0 or more, such as 0.0001"),
    ("warmup_steps", lambda v: v >= 0, "give 0 or more steps"),
    ("epochs", lambda v: v >= 1, "give at least 1"),
    ("steps", lambda v: v >= 1, "give at least 1"),
    ("batch_size", lambda v: v >= 2, "give at least 2 images, for a loss contrasts them"),
    ("seed", lambda v: v >= 0, "give 0 or more"),
    ("threads", lambda v: 1 <= v <= 1024, "give 1 to 1024"),
    ("window", lambda v: v >= 2, "give at least 2, so that one moves while one is computed"),
    ("report_every_s", lambda v: 0 < v < math.inf, "give seconds above 0, such as 0.5"),
    ("snapshot_every", lambda v: v >= 1, "give at least 1 step"),
    ("retain_mb", lambda v: v >= 1, "give at least 1"),
    ("checkpoint_every", lambda v: v >= 1, "give at least 1 step"),
    ("hang_timeout_s", lambda v: 0.5 <= v <= 1e6, "give 0.5 to 1,000,000 s"),
    ("phase_timeout_s", lambda v: 1 <= v <= 1e6, "give 1 to 1,000,000 s"),
    ("max_worker_restarts", lambda v: v >= 0, "give 0 or more; 0 ends the job at once"),
    ("max_bad_steps", lambda v: v >= 1, "give at least 1"),
    ("time_alone_s", lambda v: 0 < v <= 60, "give seconds above 0, 60 at most"),
)

_FIELDS = {field.name.replace("_", "-"): field for field in dataclasses.fields(RunConfig)}

# Keys of a file that followed from another one when it was resolved: a flag for the latter
# drops them, for otherwise `--config old.toml --epochs 60` would keep the old number of steps. Cuts
# that still can be are kept where their balance alone would change (with the decoders' depth, the
# batch, the data), so that two runs that differ by one flag differ in nothing else.
_FOLLOWS = {
    "method": ("workers", "cuts", "threads", "snapshot-every"),
    "workers": ("cuts", "threads", "snapshot-every"),
    "cuts": ("workers", "threads", "snapshot-every"),
    "model": ("cuts", "snapshot-every"),
    "overlap": ("cuts", "snapshot-every"),
    "max-memory-mb": ("cuts", "snapshot-every"),
    "tie": ("snapshot-every",),
    "lag": ("window", "snapshot-every"),
    "free-ties": ("lag", "window", "snapshot-every"),
    "max-staleness": ("window", "snapshot-every"),
    "window": ("snapshot-every",),
    "retain-mb": ("snapshot-every",),
    "epochs": ("steps",),
    "data": ("steps", "checkpoint-every"),
    "batch-size": ("steps", "snapshot-every", "checkpoint-every"),
}
_RECUT = {"method", "workers", "cuts"}  # flags that change the number of blocks


def parse(argv: Sequence[str], *, prog: str) -> RunConfig:
    """Read the flags, and the file that --config names; flags win.

    `--help` prints the flags and exits with 0. Raises ConfigError for anything a user can get
    wrong here; its message is one sentence or two, meant to be printed as it is.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError("the current directory was deleted; change to one that exists") from None
    app = App(
        name=prog,
        help="Train a network as overlapping local blocks (LoCo).",
        help_flags=["--help"],
        version_flags=[],
        config=_read_file,
        default_parameter=Parameter(converter=_convert, negative=""),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    app.default(_identity)
    try:
        config = app(list(argv))
    except CycloptsError as error:
        raise ConfigError(_readable(error)) from error
    if config is None:  # the help was printed
        raise SystemExit(0)
    assert isinstance(config, RunConfig)
    return config


def refuse_free_ties(config: RunConfig) -> None:
    """Raise ConfigError if a program without timing is to take what has arrived."""
    if config.free_ties:
        raise ConfigError(
            "free-ties take what has arrived, and in one process nothing travels; give a fixed lag,"
            " such as --lag 1, or use launch/pipeline.py"
        )


def to_toml(config: RunConfig) -> str:
    """Write a config as TOML that, given back by --config, parses to an equal one."""
    values = {key: getattr(config, field.name) for key, field in _FIELDS.items() if field.compare}
    given = {key: value for key, value in values.items() if value is not None}
    return "# Give this file back by --config to repeat the run.\n" + tomli_w.dumps(given)


def from_toml(text: str) -> RunConfig:
    """Read back what `to_toml` wrote."""
    values: dict[str, Any] = {
        key.replace("-", "_"): tuple(value) if isinstance(value, list) else value
        for key, value in tomllib.loads(text).items()
    }
    return RunConfig(**values)


_DEFAULTS = RunConfig()


def _identity(config: Annotated[RunConfig, Parameter(name="*")] = _DEFAULTS) -> RunConfig:
    return config


def _read_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in from the file of --config what the flags left open (a hook of cyclopts)."""
    given = {argument.name.removeprefix("--") for argument in arguments if argument.tokens}
    if "config" not in given:
        return
    path = Path(arguments["--config"].tokens[0].value)
    values = _load(path)
    balanced = "cuts" in given and arguments["--cuts"].tokens[0].value.strip() in BALANCES
    for flag in given & _FOLLOWS.keys():
        for key in _FOLLOWS[flag]:
            if not (flag == "cuts" and balanced and key in ("workers", "threads")):
                values.pop(key, None)
    depths = str(values.get("decoder-depth", "")).split(",")
    if given & _RECUT and len(set(depths)) == 1 and depths != [""]:
        values["decoder-depth"] = depths[0]  # it was one figure for all, and still is
    cyclopts.config.Dict(values, source=str(path))(app, commands, arguments)


def _load(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        reason = (error.strerror or "it can't be read").lower()
        raise ConfigError(f"config file {str(path)!r}: {reason}; check the path") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"config file {str(path)!r} is not valid TOML: {error}") from error

    keys = _FIELDS.keys() - {"config"}
    for key, value in values.items():
        if key not in keys:
            near = difflib.get_close_matches(key.replace("_", "-"), keys, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "--help lists the keys"
            raise ConfigError(f"config file {str(path)!r} has an unknown key {key!r}; {hint}")
        if isinstance(value, list):
            values[key] = ",".join(map(str, value))
        elif not isinstance(value, str | int | float):
            kind = "a table" if isinstance(value, dict) else type(value).__name__
            raise ConfigError(f"config file {str(path)!r}: {key!r} is {kind}; give a plain value")
    return values


def _readable(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        tokens = " ".join(error.unused_tokens or ())
        return f"{tokens!r} is not understood; flags begin with --, and --help lists them"
    text = " ".join(str(error).split())
    return text if text.endswith("?") else f"{text.rstrip('.')}; see --help"


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _show(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
