"""One suite that every place for checkpoints passes: a directory, memory, an S3 server."""

import errno
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from runtime.state import object_store, storage
from runtime.state.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    clear,
    is_run_dir,
    last_committed,
    make_room,
    newest,
)
from runtime.state.object_store import ObjectStore, StoreError
from runtime.state.storage import (
    LocalStorage,
    Storage,
    check_place,
    open_storage,
    read,
    remove_half_written,
    try_out,
    write_durably,
)

TIMEOUT_S = 20.0


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path) -> str:
    """A path or URL at which there is nothing yet."""
    if request.param == "local":
        return str(tmp_path / "not" / "yet")
    root = "memory://test" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{root}/{uuid4().hex}/not/yet"


@pytest.fixture
def there(place) -> Storage:
    return open_storage(place)


def make_writer(there: Storage, *, num_parts: int = 2, run_id: str = "0" * 16) -> CheckpointWriter:
    return CheckpointWriter(
        storage=there, run_id=run_id, num_parts=num_parts, config_toml="lag = 1\n"
    )


def write_all(writer: CheckpointWriter, *steps: int) -> None:
    for step in steps:
        for block in range(writer.num_parts):
            writer.write_part(block, step, f"block {block} before step {step}".encode() * 9)


def found(there: Storage) -> list[int | str]:
    return [f.step if isinstance(f, Checkpoint) else str(f) for f in newest(there)]


# Files ------------------------------------------------------------------------------------------


def test_what_is_written_is_there_for_others(there, place):
    there.write("12/part", b"old")
    there.write("12/part", b"new")
    there.write("12/empty", b"")
    other = open_storage(place)
    assert (read(other, "12/part"), read(other, "12/empty")) == (b"new", b"")
    assert other.exists("12/part")
    assert other.names() == ["12"]
    assert sorted(other.names_in("12")) == ["empty", "part"]


def test_what_is_not_there_is_told_from_what_is(there):
    assert (there.names(), there.names_in("12")) == ([], [])
    assert not there.exists("12/part")
    with pytest.raises(FileNotFoundError):
        read(there, "12/part")
    there.write("12/part", b"part")
    assert not there.exists("12"), "it is no file"
    there.remove("13")
    there.remove("12/other")
    assert read(there, "12/part") == b"part"


def test_files_come_in_chunks(there, monkeypatch):
    for module in (storage, object_store):
        monkeypatch.setattr(module, "CHUNK_BYTES", 4)
    there.write("file", b"0123456789")
    assert list(there.chunks("file")) == [b"0123", b"4567", b"89"]


def test_file_and_folder_are_removed_and_others_stay(there):
    for name in ("12/a", "12/b", "120/a", "mark"):
        there.write(name, b"x")
    there.remove("mark")
    there.remove("12")
    assert there.names() == ["120"]
    assert there.exists("120/a")


def test_folder_is_moved_with_all_in_it(there):
    for name in ("12/a", "12/b"):
        there.write(name, name.encode())
    there.move("12", "damaged-12")
    assert there.names() == ["damaged-12"]
    assert [read(there, f"damaged-12/{name}") for name in "ab"] == [b"12/a", b"12/b"]


def test_place_is_named_as_the_user_finds_it(there, place):
    assert there.locate() == place
    assert there.locate("12/part") == f"{place}/12/part"


def test_trial_leaves_nothing(there):
    try_out(there)
    assert there.names() == []


def test_only_a_local_directory_shares_a_disk(tmp_path, there, place):
    there.write("file", b"x")
    assert there.shares_disk(tmp_path) == ("://" not in place)


# Checkpoints ------------------------------------------------------------------------------------


def test_checkpoint_is_complete_with_its_last_part(there):
    writer = make_writer(there)
    writer.write_part(1, 12, b"one")
    assert not writer.is_complete(12)
    assert found(there) == []
    writer.write_part(0, 12, b"zero")
    assert writer.is_complete(12)
    (whole,) = newest(there)
    assert (whole.step, whole.num_parts, whole.config_toml) == (12, 2, "lag = 1\n")
    assert [whole.read_part(block) for block in range(2)] == [b"zero", b"one"]
    assert whole.place == there.locate("00000012-00000000")
    assert last_committed(there) == whole


def test_two_newest_stay_and_what_was_begun_before_them_goes(there):
    writer = make_writer(there)
    writer.write_part(0, 3, b"begun")
    write_all(writer, 4, 8, 12)
    assert found(there) == [12, 8]
    assert sorted(name[:8] for name in there.names()) == ["00000008", "00000012"]


@pytest.mark.parametrize("how", ["torn", "flipped", "gone", "torn manifest"])
def test_damaged_checkpoint_is_set_aside_and_the_one_before_serves(there, how):
    writer = make_writer(there)
    write_all(writer, 4, 8)
    name = writer.part(8, 1)
    if how == "torn manifest":
        name = f"{writer.directory(8)}/manifest.json"
    content = read(there, name)
    if how == "gone":
        there.remove(name)
    elif how == "flipped":
        there.write(name, content[:-1] + bytes([content[-1] ^ 1]))
    else:
        there.write(name, content[: len(content) // 2])
    damaged, whole = newest(there)
    assert str(damaged).startswith(there.locate(name))
    assert whole.step == 4
    aside = f"damaged-{writer.directory(8)}"
    assert damaged.set_aside() == f"; it is now {aside}"
    assert found(there) == [4]
    write_all(writer, 8)
    there.remove(writer.part(8, 1))
    assert next(newest(there)).set_aside() == f"; it is now {aside}-2"


def test_given_up_checkpoint_gets_no_more_parts(there):
    writer = make_writer(there)
    writer.write_part(0, 12, b"zero")
    writer.give_up(12)
    writer.write_part(1, 12, b"one")
    assert there.names() == ["00000012-00000000.given-up"]
    write_all(writer, 16, 20)
    assert found(there) == [20, 16]
    assert len(there.names()) == 2


def test_clearing_deletes_checkpoints_and_nothing_else(there):
    writer = make_writer(there)
    write_all(writer, 4, 8)
    there.remove(writer.part(8, 0))
    next(newest(there)).set_aside()
    writer.write_part(0, 12, b"begun")
    writer.give_up(12)
    writer.write_part(0, 16, b"begun")
    for name in ("notes/plan.md", "00000012-notes", "readme"):
        there.write(name, b"mine")
    clear(there)
    assert sorted(there.names()) == ["00000012-notes", "notes", "readme"]


@pytest.mark.parametrize("delete", [clear, make_room])
def test_manifest_goes_before_what_it_names(there, monkeypatch, delete):
    """A deletion that is cut short would else leave a manifest of parts that are gone."""
    write_all(make_writer(there), 4, 8)
    removed = []
    monkeypatch.setattr(type(there), "remove", lambda _, name: removed.append(name))
    delete(there)
    manifests = [name for name in removed if name.endswith("/manifest.json")]
    assert manifests
    for manifest in manifests:
        assert removed.index(manifest) < removed.index(manifest.removesuffix("/manifest.json"))


def test_run_directory_is_known(there):
    assert not is_run_dir(there)
    there.write("config.toml", b"lag = 1\n")
    assert is_run_dir(there)


def test_two_writers_that_commit_at_once_leave_one_whole_manifest(there, monkeypatch):
    """On an object store the second one's manifest comes between the writing of the first one's
    and its reading back: that was no failure of the checkpoint."""
    first, second = make_writer(there, num_parts=1), make_writer(there, num_parts=1)
    write, commits = type(there).write, []

    def interrupted(self: Storage, name: str, content: bytes) -> None:
        if name.endswith("manifest.json") and not commits:
            commits.append(name)
            write(self, name, content)
            second._write_manifest(12, [{"bytes": 4, "xxh3_64": "0"}])
            raise StoreError(errno.EIO, "what is read back is not what was written", name)
        write(self, name, content)

    monkeypatch.setattr(type(there), "write", interrupted)
    first.write_part(0, 12, b"part")
    assert commits
    assert first.is_complete(12)


# A local directory ------------------------------------------------------------------------------


def full_disk(fd: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ctrl_c(fd: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("trouble", "error"), [(full_disk, OSError), (ctrl_c, KeyboardInterrupt)])
def test_file_is_replaced_as_one(tmp_path, monkeypatch, trouble, error):
    """Ctrl-C while evaluate wrote its --json left half a file beside it."""
    path = tmp_path / "config.toml"
    write_durably(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", trouble)
        with pytest.raises(error):
            write_durably(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]
    write_durably(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"new"]


@pytest.fixture
def flushed(monkeypatch) -> list[str]:
    """The names of what was flushed to the disk, as it is."""
    names: list[str] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    monkeypatch.setattr(storage.os, "fsync", noting)
    return names


def test_file_counts_as_written_when_bytes_and_name_are_on_disk(tmp_path, flushed):
    write_durably(tmp_path / "a", b"new")
    content, folder = flushed
    assert re.fullmatch(r"\.a\.[0-9a-f]{16}\.tmp", content)
    assert folder == tmp_path.name


def test_new_folders_are_on_disk_with_their_first_file(tmp_path, flushed):
    """A power cut could take a checkpoint whose files were all flushed: its folder's name was not,
    and an older checkpoint had been deleted for it."""
    there = LocalStorage(tmp_path / "checkpoints")
    there.write("12/part", b"part")
    assert flushed[:2] == ["checkpoints", tmp_path.name]
    del flushed[:]
    there.write("12/other", b"part")
    assert len(flushed) == 2


def test_what_deaths_have_left_half_written_is_removed(tmp_path):
    for name in (".a.0.tmp", ".a.1.tmp", ".b.0.tmp", "a"):
        (tmp_path / name).touch()
    remove_half_written(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.0.tmp", "a"]


# An object store --------------------------------------------------------------------------------


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore(f"memory://test/{uuid4().hex}", timeout_s=0.05)


@pytest.fixture
def silence(store, monkeypatch) -> Callable[[str], None]:
    """Have a method of the store's filesystem not answer, until the test ends."""
    over = threading.Event()

    def silence(method: str) -> None:
        fs, _ = store._opened
        monkeypatch.setattr(fs, method, lambda *_, **__: over.wait(TIMEOUT_S), raising=True)

    yield silence
    over.set()


@pytest.mark.parametrize(
    ("method", "use"),
    [
        ("pipe_file", lambda store: store.write("a", b"x")),
        ("info", lambda store: store.exists("a")),
        ("info", lambda store: read(store, "a")),
        ("ls", lambda store: store.names()),
        ("rm", lambda store: store.remove("a")),
    ],
)
def test_store_that_does_not_answer_is_not_waited_for(store, silence, method, use):
    silence(method)
    began_s = time.monotonic()
    with pytest.raises(StoreError, match="the store has not answered in 0 s") as caught:
        use(store)
    assert caught.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - began_s < 5.0


def test_large_object_has_more_time(store, monkeypatch):
    waited = []
    monkeypatch.setattr(
        object_store.Future, "result", lambda self, timeout_s: waited.append(timeout_s) or 0
    )
    store._call("a", lambda fs, path: None, moves_bytes=4_000_000)
    assert waited == [2.05]


def test_object_that_is_not_what_was_written_is_no_checkpoint(store, monkeypatch):
    fs, _ = store._opened
    pipe_file = fs.pipe_file
    monkeypatch.setattr(fs, "pipe_file", lambda path, content: pipe_file(path, content[:-1] + b"?"))
    with pytest.raises(StoreError, match="what is read back is not what was written"):
        make_writer(store, num_parts=1).write_part(0, 12, b"part")
    assert found(store) == []


def test_whatever_a_store_raises_is_told_in_one_line(store, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no\n  credentials.")

    monkeypatch.setattr(store._opened[0], "ls", fail)
    with pytest.raises(StoreError) as caught:
        store.names()
    assert caught.value.strerror == "RuntimeError: no credentials"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_server_that_is_not_there_is_told_in_time(unreachable):
    store = ObjectStore(f"{unreachable}/run", timeout_s=1.0)
    with pytest.raises(StoreError, match=r"has not answered in 1 s|Could not connect"):
        try_out(store)


def test_bucket_that_is_not_there_is_not_made(s3):
    with pytest.raises(StoreError, match="there is no such bucket"):
        try_out(ObjectStore("s3://no-such-bucket/run"))


def test_filesystem_is_opened_by_the_process_that_uses_it():
    """Processes are forked from a server; the threads of a filesystem would not come along."""
    assert "_opened" not in vars(open_storage("memory://test/run"))


# What a user gives ------------------------------------------------------------------------------


def test_path_is_made_absolute_and_url_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_place("checkpoints") == str(tmp_path / "checkpoints")
    assert check_place("~/runs") == os.path.expanduser("~/runs")
    assert check_place(f"file://{tmp_path}") == str(tmp_path)
    assert check_place("http://bucket/run/") == "http://bucket/run"
    assert open_storage(check_place("checkpoints")) == LocalStorage(tmp_path / "checkpoints")


def test_path_in_the_home_of_nobody_is_refused():
    """It was a traceback of pathlib's."""
    with pytest.raises(ValueError, match=r"'~nosuch/ck' .* not known here; give the path in full"):
        check_place("~nosuch/ck")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "'s3://' names no bucket; give one, such as s3://bucket/run"),
        ("://bucket", "'://bucket' is of a kind that fsspec does not know ()"),
        ("s4://bucket/run", "'s4://bucket/run' is of a kind that fsspec does not know (s4); give"),
        ("memory://run", "is the memory of one process, and a job has several; give a path"),
        ("gs://bucket/run", "which is not installed here; pip install gcsfs"),
        ("s3://bucket/run", "needs the package s3fs, which is not installed here; pip install s3"),
    ],
)
def test_url_that_can_not_be_opened_is_refused_with_the_remedy(url, says, monkeypatch):
    find = object_store.importlib.util.find_spec
    missing = ("gcsfs", "s3fs")
    monkeypatch.setattr(
        object_store.importlib.util,
        "find_spec",
        lambda name, *more: None if name in missing else find(name, *more),
    )
    with pytest.raises(ValueError, match=re.escape(says)):
        check_place(url)


def test_only_a_url_imports_fsspec():
    code = (
        "import sys, runtime.state.checkpoint as c, runtime.state.storage as s\n"
        "list(c.newest(s.open_storage(s.check_place('nowhere'))))\n"
        "before = 'fsspec' in sys.modules\n"
        "s.open_storage(s.check_place('http://bucket/run'))\n"
        "print(before, 'fsspec' in sys.modules, {'torch', 'numpy', 'zmq'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False True set()"
