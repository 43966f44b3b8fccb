"""Reads a config from flags and a TOML file, and writes the two files that a run leaves.

given.toml holds what the user gave, config.toml what that resolved to. config.toml also holds what
was given, in a table [given]: that tells it from given.toml, and lets a repeated run write both
files again. Must not import torch, zmq or
scikit-learn: light processes read this.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import tomli_w
from cyclopts import App, ArgumentCollection, Parameter

from launch.config import ROLES, ConfigError, ResolvedConfig, Role, RunConfig, kebab, show
from launch.flags import read_flags

KEYS = {kebab(name): name for name in ROLES}
GIVEN = """\
# What the user gave. --config with this file takes more flags and resolves all of it anew.
"""
RESOLVED = """\
# What a run resolved to. --config with this file repeats the run exactly. To change something, give
# its given.toml instead, which holds what is in the table [given].
"""


def parse(
    argv: Sequence[str],
    *,
    prog: str,
    about: str = "Train a network as overlapping local blocks (LoCo).",
) -> RunConfig:
    """Read the flags, and the file that --config names; flags win. A ResolvedConfig if the file is
    a config.toml.

    `--help` prints `about` and the flags, and exits with 0. Raises ConfigError for anything a user
    can get wrong here; its message is one sentence or two, meant to be printed as it is.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError("the current directory was deleted; change to one that exists") from None
    file = _File()
    config = read_flags(
        _identity,
        argv,
        prog=prog,
        about=about,
        config=file.read,
    )
    return file.complete(config)


def to_toml(config: RunConfig) -> str:
    """Write what was given as given.toml has it, and what it resolved to as config.toml has it."""
    if not isinstance(config, ResolvedConfig):
        return GIVEN + tomli_w.dumps(_values(config))
    more = {
        "earlier-lengths": config.earlier_lengths,
        "processor": config.processor,
        "torch": config.torch,
        "code": config.code,
        "data-sizes": config.data_sizes,
        "data-digest": config.data_digest,
        "given": _values(config.given),
    }
    return RESOLVED + tomli_w.dumps(_values(config, with_defaults=True) | more)


def from_toml(text: str) -> ResolvedConfig:
    """Read back the config.toml of a run directory. Raises ConfigError if it is none."""
    try:
        return _resolved(tomllib.loads(text))
    except ValueError as error:
        raise ConfigError(
            f"the run directory's config.toml: {error}; give another --run-dir, or --fresh"
        ) from error


_DEFAULTS = RunConfig()


def _identity(config: Annotated[RunConfig, Parameter(name="*")] = _DEFAULTS) -> RunConfig:
    return config


class _File:
    """The file that --config names, which is read when the flags are known."""

    def __init__(self) -> None:
        self._flags: set[str] = set()
        self._resolved: ResolvedConfig | None = None

    def read(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in what the flags left open (a hook of cyclopts)."""
        self._flags = {a.name.removeprefix("--") for a in arguments if a.tokens}
        if "config" not in self._flags:
            return
        path = Path(arguments["--config"].tokens[0].value)
        values = _load(path)
        try:
            self._resolved = _resolved(values) if "given" in values else None
        except ConfigError as error:
            raise ConfigError(f"config file {str(path)!r}: {error}; give its given.toml") from error
        if self._resolved is not None:
            self._refuse_flags(values, path)
            # One block has no overlap ([]), which nobody may give.
            values = {k: value for k, value in values.items() if k in KEYS and value != []}
        elif any(ROLES[KEYS[flag]] is Role.LENGTH for flag in self._flags):
            values = {k: v for k, v in values.items() if ROLES.get(KEYS.get(k, "")) != Role.LENGTH}
        _check(values, f"config file {str(path)!r}")
        shown = {key: show(_tuples(value)) for key, value in values.items()}
        cyclopts.config.Dict(shown, source=str(path))(app, commands, arguments)

    def _refuse_flags(self, values: Mapping[str, Any], path: Path) -> None:
        """Raise ConfigError for flags with which a config.toml would not repeat its run."""
        for key, name in KEYS.items():
            if key in self._flags and ROLES[name] not in (Role.RUNNING, Role.PLACE):
                there = show(_tuples(values.get(key, "not set")))
                given = path.with_name("given.toml")
                instead = given if given.is_file() else "a file of what its table [given] holds"
                raise ConfigError(
                    f"--{key} can't be given with {str(path)!r}, which repeats its run exactly"
                    f" ({key} {there}); to change that, give --config {instead}"
                )

    def complete(self, config: RunConfig) -> RunConfig:
        """What was read, with what a config.toml alone says."""
        if self._resolved is None:
            return config
        flags = {KEYS[flag]: getattr(config, KEYS[flag]) for flag in self._flags}
        return replace(self._resolved, **flags, given=replace(self._resolved.given, **flags))


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        reason = (error.strerror or "it can't be read").lower()
        raise ConfigError(f"config file {str(path)!r}: {reason}; check the path") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"config file {str(path)!r} is not valid TOML: {error}") from error


def _check(values: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError for what is no key, or no value of one."""
    keys = KEYS.keys() - {"config"}
    for key, value in values.items():
        if key not in keys:
            near = difflib.get_close_matches(key.replace("_", "-"), keys, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "--help lists the keys"
            raise ConfigError(f"{source} has an unknown key {key!r}; {hint}")
        if not isinstance(value, str | int | float | list):
            kind = "a table" if isinstance(value, dict) else type(value).__name__
            raise ConfigError(f"{source}: {key!r} is {kind}; give a plain value")


def _resolved(values: Mapping[str, Any]) -> ResolvedConfig:
    """Make the config of a config.toml's values. Raises ConfigError if no run wrote them."""

    def named(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key.replace("-", "_"): _tuples(value) for key, value in values.items()}

    try:
        given = RunConfig(**named(values.get("given", {})))
        return ResolvedConfig(**(named(values) | {"given": given}))
    except (AttributeError, TypeError) as error:
        reason = str(error).rpartition("() ")[2]
        raise ConfigError(f"no run of this version wrote it ({reason})") from error


def _values(config: RunConfig, *, with_defaults: bool = False) -> dict[str, Any]:
    """The keys that are part of a run, for TOML."""
    found = {name: getattr(config, name) for name, role in ROLES.items() if role != Role.PLACE}
    return {
        kebab(name): value
        for name, value in found.items()
        if value is not None and (with_defaults or value != getattr(RunConfig, name))
    }


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
