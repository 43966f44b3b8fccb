"""What is left in the place of fork servers is told, once it has had its time."""

from pathlib import Path

from runtime.keeper.fork_server import LONGEST_DIRECTORY
from runtime.testing import fork_servers
from runtime.testing.fork_servers import left_in, own_place


def test_place_is_short_enough_for_sockets_and_goes():
    with own_place() as place:
        assert len(str(place)) <= LONGEST_DIRECTORY
        assert left_in(place) == []
    assert not place.exists()


def test_directory_that_stays_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(fork_servers, "GRACE_S", 0.0)
    left = tmp_path / "loco-abc"
    left.mkdir()
    (tmp_path / "torchelastic").mkdir()
    assert left_in(tmp_path) == [left]


def test_directory_that_is_about_to_go_has_its_time(monkeypatch, tmp_path):
    left = tmp_path / "loco-abc"
    left.mkdir()
    monkeypatch.setattr(fork_servers.time, "sleep", lambda _: Path.rmdir(left))
    assert left_in(tmp_path) == []
