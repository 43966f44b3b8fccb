"""Checkpoints: one part a worker, complete only when a manifest says so.

Owns their layout, order of writing and verification. Where they lie, and how a file gets there
whole and to stay, is runtime.state.storage's. A part is a safetensors file; the manifest with all
checksums follows when the last part is there, whoever wrote it. Imports no torch: keepers write.

    00000120-5f3a9c1e/                 step and run
        part-0000.safetensors          the block's state before that step
        part-0000.json                 its size and checksum
        manifest.json                  all parts' checksums, and the run's config
"""

import contextlib
import json
import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import xxhash

from runtime.state.storage import Storage, read, reason

NUM_STORED = 2  # complete checkpoints that stay: if the newest is damaged, the one before serves
NAME = re.compile(r"(?P<step>\d{8,})-[0-9a-f]{8}")
MANIFEST = "manifest.json"
GIVEN_UP = ".given-up"
DAMAGED = "damaged-"
ANY = re.compile(rf"({DAMAGED})?{NAME.pattern}(-\d+|{re.escape(GIVEN_UP)})?")  # whole or not
# What marks a directory as a run's, of which checkpoints are one part.
OF_A_RUN = ("config.toml", "metrics.jsonl")


class DamagedCheckpoint(Exception):
    """A checkpoint that says that it is complete, and is not what was written."""

    def __init__(self, storage: Storage, name: str, what: str, *, certain: bool = True) -> None:
        """`certain`: its bytes are wrong; otherwise they could not be read this time."""
        super().__init__(what)
        self.storage = storage
        self.name = name
        self.certain = certain

    def set_aside(self) -> str:
        """Rename its directory, if it is certain to be damaged, so that it counts no more and
        can still be looked at; return what to say of that. Raises OSError."""
        if not self.certain:
            return ""
        taken = self.storage.names()
        aside = f"{DAMAGED}{self.name}"
        for more in count(2):
            if aside not in taken:
                break
            aside = f"{DAMAGED}{self.name}-{more}"
        self.storage.move(self.name, aside)
        return f"; it is now {aside}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: the state of `num_parts` blocks before `step`."""

    storage: Storage
    name: str
    step: int
    written_t: float
    records: tuple[dict[str, Any], ...]  # each part's size and checksum
    config_toml: str

    @classmethod
    def open(cls, storage: Storage, name: str) -> "Checkpoint":
        """The complete checkpoint of a name, its parts not verified. Raises DamagedCheckpoint."""
        manifest = _manifest(storage, name)
        return cls(
            storage=storage,
            name=name,
            step=manifest["step"],
            written_t=manifest["written_t"],
            records=tuple(manifest["parts"]),
            config_toml=manifest["config"],
        )

    @property
    def num_parts(self) -> int:
        return len(self.records)

    @property
    def place(self) -> str:
        """Its path or URL."""
        return self.storage.locate(self.name)

    def read_part(self, block: int) -> bytes:
        """One block's part, a safetensors file. Raises DamagedCheckpoint if it is not what was
        written, or can't be read."""
        return b"".join(self._chunks(block))

    def verify(self) -> None:
        """Read all parts. Raises DamagedCheckpoint."""
        for block in range(self.num_parts):
            deque(self._chunks(block), maxlen=0)

    def _chunks(self, block: int) -> Iterator[bytes]:
        part, record = f"{self.name}/{_part(block)}", self.records[block]
        place = self.storage.locate(part)
        digest, size = xxhash.xxh3_64(), 0
        try:
            for chunk in self.storage.chunks(part):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
        except OSError as error:
            raise DamagedCheckpoint(
                self.storage,
                self.name,
                f"{place} can't be read ({reason(error)})",
                certain=isinstance(error, FileNotFoundError),
            ) from error
        if size != record["bytes"] or f"{digest.intdigest():016x}" != record["xxh3_64"]:
            what = f"{place} is not what was written (its checksum differs)"
            raise DamagedCheckpoint(self.storage, self.name, what)


@dataclass(frozen=True, kw_only=True)
class CheckpointWriter:
    """Writes the parts of one run, and the manifest when it finds all of them.

    `config_toml` is the run's, which every writer of it has alike.
    """

    storage: Storage
    run_id: str
    num_parts: int
    config_toml: str

    def directory(self, step: int) -> str:
        """The name of a step's checkpoint."""
        return f"{step:08d}-{self.run_id[:8]}"

    def part(self, step: int, block: int) -> str:
        """The name of one block's part."""
        return f"{self.directory(step)}/{_part(block)}"

    def write_part(self, block: int, step: int, image: bytes | memoryview) -> None:
        """Make one part durable, and the manifest if it is the last part. Raises OSError."""
        storage, name = self.storage, self.directory(step)
        if storage.exists(self._given_up(step)):
            return
        record = {"bytes": len(image), "xxh3_64": f"{xxhash.xxh3_64_intdigest(image):016x}"}
        storage.write(self.part(step, block), image)
        storage.write(f"{name}/{_record(block)}", json.dumps(record).encode())
        if storage.exists(self._given_up(step)):  # meanwhile, by another keeper
            _remove(storage, name)
            return
        there = set(storage.names_in(name))
        if MANIFEST in there or not there.issuperset(map(_record, range(self.num_parts))):
            return
        records = [_read_json(storage, f"{name}/{_record(k)}") for k in range(self.num_parts)]
        if None not in records:
            self._write_manifest(step, records)
            with contextlib.suppress(OSError):  # it is complete; the next one removes what stays
                _prune(storage)

    def _write_manifest(self, step: int, records: list[Any]) -> None:
        manifest = {
            "step": step,
            "written_t": time.time(),
            "parts": records,
            "config": self.config_toml,
        }
        signed = {"xxh3_64": _signature(manifest), "manifest": manifest}
        content = json.dumps(signed, indent=1).encode()
        try:
            self.storage.write(f"{self.directory(step)}/{MANIFEST}", content)
        except OSError:
            if not self._has_manifest(step):
                raise

    def _has_manifest(self, step: int) -> bool:
        """Whether a whole manifest is there: another keeper's may have come between the writing and
        the reading back of ours, and is as good."""
        try:
            _manifest(self.storage, self.directory(step))
        except DamagedCheckpoint:
            return False
        return True

    def give_up(self, step: int) -> None:
        """Remove what there is of a checkpoint that can't be completed, and say so to other keepers
        by a file beside it: parts that no manifest names only take room. Raises OSError."""
        if not self.is_complete(step):
            _remove(self.storage, self.directory(step))
            for earlier in self.storage.names():
                if earlier.endswith(GIVEN_UP):
                    _remove(self.storage, earlier)
            self.storage.write(self._given_up(step), b"")

    def _given_up(self, step: int) -> str:
        return f"{self.directory(step)}{GIVEN_UP}"

    def is_complete(self, step: int) -> bool:
        """Whether the checkpoint of a step is complete. Raises OSError."""
        return self.storage.exists(f"{self.directory(step)}/{MANIFEST}")


def newest(storage: Storage) -> Iterator[Checkpoint | DamagedCheckpoint]:
    """The complete checkpoints, newest first, each verified as it is asked for.

    One that is damaged comes as the error that says so, and the one before follows. Raises OSError
    if it can't be found out which there are.
    """
    found = []
    for name in _complete(storage):
        try:
            found.append(Checkpoint.open(storage, name))
        except DamagedCheckpoint as damage:
            yield damage
    for checkpoint in sorted(found, key=_age, reverse=True):
        try:
            checkpoint.verify()
        except DamagedCheckpoint as damage:
            yield damage
        else:
            yield checkpoint


def last_complete(storage: Storage) -> Checkpoint | None:
    """The newest whole checkpoint, if there is one. Raises OSError."""
    return next((found for found in newest(storage) if isinstance(found, Checkpoint)), None)


def last_committed(storage: Storage) -> Checkpoint | None:
    """The newest checkpoint that has a manifest, its parts not read. Raises OSError."""
    return next(iter(_by_age(storage)), None)


def has_complete(storage: Storage) -> bool:
    """Whether there is a complete checkpoint, be it damaged. Raises OSError."""
    return bool(_complete(storage))


def make_room(storage: Storage) -> bool:
    """Delete the oldest complete checkpoint but the newest one; whether one has gone. Raises
    OSError."""
    complete = _by_age(storage)
    if len(complete) < 2:
        return False
    oldest = complete[-1].name
    _remove(storage, oldest)
    return not storage.exists(f"{oldest}/{MANIFEST}")


def clear(storage: Storage) -> None:
    """Delete all checkpoints, whole, begun or damaged, and nothing else. Raises OSError."""
    for name in storage.names():
        if ANY.fullmatch(name):
            if storage.exists(f"{name}/{MANIFEST}"):  # it goes first, see `_remove`
                storage.remove(f"{name}/{MANIFEST}")
            storage.remove(name)


def is_run_dir(storage: Storage) -> bool:
    """Whether it is a run's directory, which is no place for checkpoints. Raises OSError."""
    return any(storage.exists(name) for name in OF_A_RUN)


def _remove(storage: Storage, name: str) -> None:
    """Delete a checkpoint, or what is left of one, as far as that goes: another keeper may be at it
    too, and the next time finds what stays. Without its manifest the rest counts for nothing."""
    for entry in (f"{name}/{MANIFEST}", name):
        with contextlib.suppress(OSError):
            storage.remove(entry)


def _prune(storage: Storage) -> None:
    """Delete all but the newest complete checkpoints, and what was begun before them."""
    complete = _by_age(storage)
    for checkpoint in complete[NUM_STORED:]:
        _remove(storage, checkpoint.name)
    if len(complete) >= NUM_STORED:
        _remove_incomplete(storage, up_to=complete[NUM_STORED - 1].step - 1)


def _remove_incomplete(storage: Storage, *, up_to: int) -> None:
    for name in storage.names():
        named = NAME.fullmatch(name.removesuffix(GIVEN_UP))
        if named and int(named["step"]) <= up_to and not storage.exists(f"{name}/{MANIFEST}"):
            _remove(storage, name)


def _by_age(storage: Storage) -> list[Checkpoint]:
    """The complete checkpoints whose manifest can be read, newest first."""
    found = []
    for name in _complete(storage):
        with contextlib.suppress(DamagedCheckpoint):
            found.append(Checkpoint.open(storage, name))
    return sorted(found, key=_age, reverse=True)


def _complete(storage: Storage) -> list[str]:
    """The names of the checkpoints that have a manifest."""
    names = (name for name in storage.names() if NAME.fullmatch(name))
    return [name for name in names if storage.exists(f"{name}/{MANIFEST}")]


def _age(checkpoint: Checkpoint) -> tuple[int, float]:
    return checkpoint.step, checkpoint.written_t


def _manifest(storage: Storage, name: str) -> dict[str, Any]:
    """What a manifest says. Raises DamagedCheckpoint if it can't be read or was changed."""
    file = f"{name}/{MANIFEST}"
    place = storage.locate(file)
    try:
        signed = _read_json(storage, file)
    except OSError as error:
        what = f"{place} can't be read ({reason(error)})"
        raise DamagedCheckpoint(storage, name, what, certain=False) from error
    if not isinstance(signed, dict) or signed.keys() != {"xxh3_64", "manifest"}:
        raise DamagedCheckpoint(storage, name, f"{place} can't be read")
    manifest: dict[str, Any] = signed["manifest"]
    if _signature(manifest) != signed["xxh3_64"]:
        raise DamagedCheckpoint(storage, name, f"{place} is not what was written")
    return manifest


def _signature(manifest: object) -> str:
    return f"{xxhash.xxh3_64_intdigest(json.dumps(manifest, sort_keys=True).encode()):016x}"


def _part(block: int) -> str:
    return f"part-{block:04d}.safetensors"


def _record(block: int) -> str:
    return f"part-{block:04d}.json"


def _read_json(storage: Storage, name: str) -> Any | None:
    """What a file holds; None if it is not there, or is no JSON. Raises OSError."""
    try:
        return json.loads(read(storage, name))
    except (FileNotFoundError, ValueError):
        return None
