"""Checkpoints on disk: one part a worker, complete only when a manifest says so.

Owns their layout, durability and verification. A part is a safetensors file; parts are written
under a temporary name, flushed to the disk and renamed, and the manifest with all checksums
follows when the last part is there, whoever wrote it. Imports no torch: keepers write.

    checkpoints/00000120-5f3a9c1e/     step and run
        part-0000.safetensors          the block's state before that step
        part-0000.json                 its size and checksum
        manifest.json                  all parts' checksums, and the run's config
"""

import contextlib
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import xxhash

NUM_STORED = 2  # complete checkpoints that stay: if the newest is damaged, the one before serves
CHUNK_BYTES = 1 << 22
NAME = re.compile(r"(?P<step>\d{8,})-[0-9a-f]{8}")
GIVEN_UP = ".given-up"


class DamagedCheckpoint(Exception):
    """A checkpoint that says that it is complete, and is not what was written."""

    def __init__(self, path: Path, what: str, *, certain: bool = True) -> None:
        """`certain`: its bytes are wrong; otherwise they could not be read this time."""
        super().__init__(what)
        self.path = path
        self.certain = certain

    def set_aside(self) -> str:
        """Rename its directory, if it is certain to be damaged, so that it counts no more and
        can still be looked at; return what to say of that."""
        if not self.certain:
            return ""
        aside = self.path.with_name(f"damaged-{self.path.name}")
        for more in count(2):
            if not aside.exists():
                break
            aside = self.path.with_name(f"damaged-{self.path.name}-{more}")
        self.path.rename(aside)
        return f"; it is now {aside.name}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: the state of `num_parts` blocks before `step`."""

    path: Path
    step: int
    num_parts: int
    config_toml: str

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """The complete checkpoint in a directory, its parts not verified. Raises
        DamagedCheckpoint."""
        manifest = _manifest(path)
        return cls(
            path=path,
            step=manifest["step"],
            num_parts=len(manifest["parts"]),
            config_toml=manifest["config"],
        )

    def part(self, block: int) -> Path:
        """The file of one block's part."""
        return _part(self.path, block)


@dataclass(frozen=True, kw_only=True)
class CheckpointWriter:
    """Writes the parts of one run, and the manifest when it finds all of them."""

    run_dir: Path
    run_id: str
    num_parts: int

    def directory(self, step: int) -> Path:
        return self.run_dir / "checkpoints" / f"{step:08d}-{self.run_id[:8]}"

    def part(self, step: int, block: int) -> Path:
        """The file of one block's part."""
        return _part(self.directory(step), block)

    def write_part(self, block: int, step: int, image: bytes) -> None:
        """Make one part durable, and the manifest if it is the last part. Raises OSError."""
        path = self.directory(step)
        if self._given_up(step).exists():
            return
        path.mkdir(parents=True, exist_ok=True)
        record = {"bytes": len(image), "xxh3_64": f"{xxhash.xxh3_64_intdigest(image):016x}"}
        write_durably(_part(path, block), image)
        write_durably(_record(path, block), json.dumps(record).encode())
        records = {k: _read_json(_record(path, k)) for k in range(self.num_parts)}
        if self._given_up(step).exists():  # meanwhile, by another keeper
            shutil.rmtree(path, ignore_errors=True)
        if None in records.values() or (path / "manifest.json").exists():
            return
        manifest = {
            "step": step,
            "written_t": time.time(),
            "parts": [records[k] for k in range(self.num_parts)],
            "config": (self.run_dir / "config.toml").read_text("utf-8"),
        }
        signed = {"xxh3_64": _signature(manifest), "manifest": manifest}
        write_durably(path / "manifest.json", json.dumps(signed, indent=1).encode())
        _prune(self.run_dir)

    def give_up(self, step: int) -> None:
        """Remove what there is of a checkpoint that can't be completed, and say so to other keepers
        by a file beside it: parts that no manifest names only take room. Raises OSError."""
        if not self.is_complete(step):
            shutil.rmtree(self.directory(step), ignore_errors=True)
            for earlier in self.directory(step).parent.glob(f"*{GIVEN_UP}"):
                earlier.unlink(missing_ok=True)
            self._given_up(step).touch()

    def _given_up(self, step: int) -> Path:
        return self.directory(step).with_suffix(GIVEN_UP)

    def is_complete(self, step: int) -> bool:
        """Whether the checkpoint of a step is complete."""
        return (self.directory(step) / "manifest.json").exists()


def newest(run_dir: Path) -> Iterator[Checkpoint | DamagedCheckpoint]:
    """The complete checkpoints of a run, newest first, each verified as it is asked for.

    One that is damaged comes as the error that says so, and the one before follows.
    """
    found = []
    for path in _complete(run_dir):
        try:
            found.append((_manifest(path), path))
        except DamagedCheckpoint as damage:
            yield damage
    for manifest, path in sorted(found, key=_age, reverse=True):
        try:
            _verify(path, manifest["parts"])
        except DamagedCheckpoint as damage:
            yield damage
        else:
            yield Checkpoint.open(path)


def last_complete(run_dir: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, if it has one."""
    return next((found for found in newest(run_dir) if isinstance(found, Checkpoint)), None)


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file as one, and have it on the disk when this returns. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()  # half a file helps no one, least of all on a full disk
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_full(error: OSError) -> bool:
    """Whether it says that the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def has_complete(run_dir: Path) -> bool:
    """Whether there is a complete checkpoint, be it damaged."""
    return bool(_complete(run_dir))


def make_room(run_dir: Path) -> bool:
    """Delete the oldest complete checkpoint but the newest one; whether there was one to delete."""
    complete = _by_age(run_dir)
    if len(complete) < 2:
        return False
    shutil.rmtree(complete[-1][1], ignore_errors=True)
    return True


def _verify(path: Path, parts: Iterable[dict[str, Any]]) -> None:
    for block, record in enumerate(parts):
        part, digest = _part(path, block), xxhash.xxh3_64()
        try:
            with part.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
            size = part.stat().st_size
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise DamagedCheckpoint(
                path,
                f"{part} can't be read ({reason})",
                certain=isinstance(error, FileNotFoundError),
            ) from error
        if size != record["bytes"] or f"{digest.intdigest():016x}" != record["xxh3_64"]:
            raise DamagedCheckpoint(path, f"{part} is not what was written (its checksum differs)")


def _prune(run_dir: Path) -> None:
    """Delete all but the newest complete checkpoints, and what was begun before them."""
    complete = _by_age(run_dir)
    for _, path in complete[NUM_STORED:]:
        shutil.rmtree(path, ignore_errors=True)  # another keeper may be at it too
    if len(complete) >= NUM_STORED:
        _remove_incomplete(run_dir, up_to=complete[NUM_STORED - 1][0]["step"] - 1)


def _remove_incomplete(run_dir: Path, *, up_to: int) -> None:
    for path in (run_dir / "checkpoints").glob("*"):
        named = NAME.fullmatch(path.name.removesuffix(GIVEN_UP))
        if not named or int(named["step"]) > up_to or (path / "manifest.json").exists():
            continue
        if path.suffix == GIVEN_UP:
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _by_age(run_dir: Path) -> list[tuple[dict[str, Any], Path]]:
    """The complete checkpoints whose manifest can be read, newest first."""
    found = []
    for path in _complete(run_dir):
        with contextlib.suppress(DamagedCheckpoint):
            found.append((_manifest(path), path))
    return sorted(found, key=_age, reverse=True)


def _complete(run_dir: Path) -> list[Path]:
    """The directories of the checkpoints that have a manifest."""
    paths = (path.parent for path in (run_dir / "checkpoints").glob("*/manifest.json"))
    return [path for path in paths if NAME.fullmatch(path.name)]


def _age(found: tuple[dict[str, Any], Path]) -> tuple[int, float]:
    manifest, _ = found
    return manifest["step"], manifest["written_t"]


def _manifest(path: Path) -> dict[str, Any]:
    """What a manifest says. Raises DamagedCheckpoint if it can't be read or was changed."""
    signed = _read_json(path / "manifest.json")
    if not isinstance(signed, dict) or signed.keys() != {"xxh3_64", "manifest"}:
        raise DamagedCheckpoint(path, f"{path / 'manifest.json'} can't be read")
    manifest: dict[str, Any] = signed["manifest"]
    if _signature(manifest) != signed["xxh3_64"]:
        raise DamagedCheckpoint(path, f"{path / 'manifest.json'} is not what was written")
    return manifest


def _signature(manifest: object) -> str:
    return f"{xxhash.xxh3_64_intdigest(json.dumps(manifest, sort_keys=True).encode()):016x}"


def _part(path: Path, block: int) -> Path:
    return path / f"part-{block:04d}.safetensors"


def _record(path: Path, block: int) -> Path:
    return path / f"part-{block:04d}.json"


def _read_json(path: Path) -> Any | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
