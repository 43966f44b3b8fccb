"""What a user's path stands for, and what is said of one that can't be looked at."""

from pathlib import Path

import pytest

from models.paths import absolute, is_file, is_folder

TOO_LONG = Path("/", "x" * 300)  # as good as a folder that may not be entered, for root too


@pytest.mark.parametrize("look", [is_file, is_folder])
def test_path_that_can_not_be_looked_at_is_refused_and_not_missing(look, tmp_path):
    """pathlib says that nothing is there for some errors, and raises others: a traceback."""
    assert not look(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"/x+ can't be read: file name too long; check it and"):
        look(TOO_LONG)


def test_home_of_nobody_is_refused(monkeypatch):
    """pathlib raises a RuntimeError for it: a traceback."""
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("~/data") == Path("/home/me/data")
    with pytest.raises(ValueError, match=r"'~nosuch/x' .* not known here; give the path in full"):
        absolute("~nosuch/x")
