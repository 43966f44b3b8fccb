"""Whether a run can be resumed under another config, and what that means.

Owns what becomes of a key that has changed, by its role (launch.config.Role). Imports no torch.
"""

import dataclasses
import json
from collections.abc import Iterator

from launch.config import ROLES, ConfigError, ResolvedConfig, Role, kebab, show
from launch.config_file import from_toml, to_toml
from runtime.program import Resumption


def resume(old_toml: str, step: int, new_text: str) -> Resumption:
    """Compare the config of a checkpoint before `step` with a resolved one, which is in the text of
    launch.resolve.dump. Raises ConfigError if the two are different runs.

    The text that is returned also records each earlier length, and up to which step it shaped the
    learning-rate schedule.
    """
    facts = json.loads(new_text)
    old, asked = from_toml(old_toml), from_toml(facts["config"])
    earlier = old.earlier_lengths
    if old.steps != asked.steps:
        earlier = (*earlier, (step, old.steps))
    new = dataclasses.replace(asked, earlier_lengths=earlier)
    changed: dict[Role, list[str]] = {role: [] for role in Role}
    for name, role in ROLES.items():
        if getattr(old, name) != getattr(new, name):
            changed[role].append(_change(old, new, name))
    if asked.earlier_lengths not in ((), earlier):
        changed[Role.RESULT].append(_change(new, asked, "earlier_lengths"))
    if old.data_sizes not in ("", new.data_sizes):
        changed[Role.RESULT].append(f"{old.data_sizes} -> {new.data_sizes}")
    if refused := changed[Role.RESULT]:
        raise ConfigError(
            f"the run that would be resumed has other settings ({', '.join(refused)}); give those"
            " it was begun with, another --run-dir (and --checkpoint-dir, if given), or --fresh to"
            " start over"
        )
    text = json.dumps(facts | {"config": to_toml(new)})
    return Resumption(
        text=text, recut=bool(changed[Role.CUT]), notes=list(_notes(old, new, step, changed))
    )


def _notes(
    old: ResolvedConfig, new: ResolvedConfig, step: int, changed: dict[Role, list[str]]
) -> Iterator[str]:
    if recut := ", ".join(changed[Role.CUT]):
        yield (
            f"another cut ({recut}): learning goes on, the lag starts afresh, and the run can't be"
            " repeated as a whole"
        )
    if old.steps != new.steps:
        anew = f"; from step {step} on the cosine is laid over all of them"
        yield f"{old.steps} steps become {new.steps}{anew if new.schedule == 'cosine' else ''}"
    if old.processor != new.processor:
        changed[Role.BITS].append(f"processor {old.processor} -> {new.processor}")
    if old.torch not in ("", new.torch):
        changed[Role.BITS].append(f"torch {old.torch} -> {new.torch}")
    if old.torch and old.code != new.code:
        yield (
            f"your code has changed ({old.code or 'none'} -> {new.code or 'none'}): from here on"
            " this is not the run that was begun"
        )
    if old.data_digest not in ("", new.data_digest) and old.data_sizes == new.data_sizes:
        yield (
            f"the data have changed (digest {old.data_digest} -> {new.data_digest}): from here on"
            " this is not the run that was begun"
        )
    if bits := ", ".join(changed[Role.BITS]):
        yield f"{bits}: from here on the bits are not those of an uninterrupted run"


def _change(old: ResolvedConfig, new: ResolvedConfig, name: str) -> str:
    before, now = (show(getattr(config, name)) for config in (old, new))
    return f"{kebab(name)} {before} -> {now}"
