"""Whether a run can be gone on with under another config, and what that means.

Owns which settings make up a result, which only say how it is run, and which may change with a
word. Imports no torch.
"""

import json
from collections.abc import Sequence

from launch.config import ConfigError, RunConfig, from_toml

# How it is run: what is learned does not depend on these, nor on any fault but nan.
RUNNING = {
    "run_dir",
    "config",
    "fresh",
    "link",
    "checksum",
    "bind",
    "window",
    "max_memory_mb",
    "report_every_s",
    "snapshot_every",
    "retain_mb",
    "checkpoint_every",
    "hang_timeout_s",
    "phase_timeout_s",
    "max_worker_restarts",
    "max_bad_steps",
    "quick_end",
    "trace",
    "faults",
}
CUT = {"workers", "cuts", "overlap"}
FREE_ONLY = {"max_staleness"}  # of a run that is never the same twice
LENGTH = {"epochs", "steps"}
ROUNDING = {"threads", "device"}  # the same sums, in another order


def check_resume(old_toml: str, new_text: str) -> tuple[bool, list[str]]:
    """Compare a checkpoint's config with a resolved one (the text of launch.resolve.dump).

    Returns whether the network is cut otherwise, and what the user should know. Raises
    ConfigError where the two are different runs.
    """
    old, new = from_toml(old_toml), from_toml(json.loads(new_text)["config"])
    differing = [name for name in vars(new) if getattr(old, name) != getattr(new, name)]
    recut = any(name in CUT for name in differing)
    if recut and _one_depth(old) == _one_depth(new) is not None:
        differing = [name for name in differing if name != "decoder_depth"]
    refused = [n for n in differing if n not in RUNNING | CUT | LENGTH | ROUNDING | FREE_ONLY]
    if refused:
        changes = ", ".join(_change(old, new, name) for name in refused)
        raise ConfigError(
            f"the run directory holds a run with other settings ({changes}); give those it was"
            " begun with, another --run-dir, or --fresh to start over"
        )
    return recut, list(_notes(old, new, differing))


def _notes(old: RunConfig, new: RunConfig, differing: Sequence[str]) -> list[str]:
    notes = []
    if recut := [name for name in differing if name in CUT]:
        changes = ", ".join(_change(old, new, name) for name in recut)
        notes.append(f"another cut ({changes}): learning goes on, the lag starts afresh")
    if "steps" in differing:
        schedule = ", and the cosine is laid over all of them" if new.schedule == "cosine" else ""
        notes.append(f"{old.steps} steps become {new.steps}{schedule}")
    if free := [name for name in differing if name in FREE_ONLY]:
        notes.append(", ".join(_change(old, new, name) for name in free))
    if rounding := [name for name in differing if name in ROUNDING]:
        changes = ", ".join(_change(old, new, name) for name in rounding)
        notes.append(f"{changes}: from here on the bits are not those of an uninterrupted run")
    return notes


def _one_depth(config: RunConfig) -> int | None:
    """The decoder depth that all blocks have, if they have one."""
    depths = set(config.decoder_depth)
    return depths.pop() if len(depths) == 1 else None


def _change(old: RunConfig, new: RunConfig, name: str) -> str:
    before, now = (_show(getattr(config, name)) for config in (old, new))
    return f"{name.replace('_', '-')} {before} -> {now}"


def _show(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
