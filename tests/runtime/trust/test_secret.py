"""Where a job's secret lies, and whose it must be."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.trust import secret as module
from runtime.trust.secret import BadSecret, read_secret, users_secret


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "job.key"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    return path


def test_secret_is_what_the_file_holds_without_its_newline(file):
    assert read_secret(file) == b"0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_secret_that_others_can_reach_is_refused(file, mode):
    file.chmod(mode)
    with pytest.raises(BadSecret, match=rf"mode {mode:04o}.*chmod 600"):
        read_secret(file)


def test_secret_of_another_user_is_refused(file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    os.chown(file, 4242, -1) if os.getuid() == 0 else None
    with pytest.raises(BadSecret, match="belongs to user"):
        read_secret(file)


@pytest.mark.parametrize("text", ["", "short", "x" * 5000])
def test_secret_of_no_good_length_is_refused(file, text):
    file.write_text(text)
    with pytest.raises(BadSecret, match=f"holds {min(len(text), 4097)} bytes.*openssl rand"):
        read_secret(file)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: None])
def test_secret_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "job.key")
    with pytest.raises(BadSecret, match="openssl rand"):
        read_secret(tmp_path / "job.key")


def test_users_secret_is_made_once_and_is_the_users_alone(tmp_path):
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    first, second = users_secret(environ), users_secret(environ)
    assert first == second
    assert len(first) == 2 * module.KEY_BYTES
    key = tmp_path / "state" / "loco" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert [path.name for path in key.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_users_secret_is_private_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        assert users_secret({"HOME": str(tmp_path)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ".local/state/loco/key").stat().st_mode) == 0o600


def test_user_without_a_home_has_a_directory_of_his_own(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    assert users_secret({}) == users_secret({"HOME": "/proc/nowhere"})
    assert (tmp_path / f"loco-of-user-{os.geteuid()}" / "key").exists()


def test_directory_that_is_another_users_is_refused(tmp_path, monkeypatch):
    (tmp_path / "loco").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BadSecret, match="no directory of this user's"):
        users_secret({"XDG_STATE_HOME": str(tmp_path)})


def test_directory_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "loco").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadSecret, match="no directory of this user's"):
        users_secret({"XDG_STATE_HOME": str(tmp_path)})


def test_processes_that_come_together_have_one_secret(tmp_path):
    code = "from runtime.trust.secret import users_secret; print(users_secret().decode())"
    environ = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert len({rank.communicate(timeout=60)[0] for rank in ranks}) == 1
    assert [path.name for path in (tmp_path / "loco").iterdir()] == ["key"]
