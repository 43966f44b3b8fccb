"""Every attack tells, by the count that proves it, whether it did anything."""

import threading
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from benchmarks.security import wire_attacks
from benchmarks.security.bodies import bodies
from benchmarks.security.budget import Budget
from benchmarks.security.catalogue import ATTACKS, REPLAY
from benchmarks.security.judge import count
from benchmarks.security.sight import Sight
from benchmarks.security.store_attacks import KEYS
from benchmarks.security.stranger import Means

BY_NAME = {attack.name: attack for attack in ATTACKS}
NEED_NO_SOCKET = {"finished", "store-junk", "store-early", "files"}
"""These find something to do wherever a store is."""


@pytest.fixture
def store():
    found = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found.set(KEYS[0], "{}")
    return found


def attacked(name, store, scratch: Path):
    """The report of an attack on a store beside which there is no job."""
    over = threading.Event()
    over.set()
    sight = Sight(store=("127.0.0.1", store.port), run_dir=str(scratch / "run"))
    means = Means(
        budget=Budget(1.0, over), scratch=scratch, armed=lambda: None, latest=lambda: sight
    )
    return bodies(10)[name](sight, means)


class Wire:
    """One on which nothing passes."""

    def record(self, until):
        assert until()

    def sent_to(self, ports):
        return []


def forbidden():
    raise PermissionError


@pytest.mark.parametrize("name", BY_NAME)
def test_attack_on_no_job_tells_that_it_did_nothing(name, store, tmp_path, monkeypatch):
    monkeypatch.setattr(wire_attacks, "Wire", Wire)
    report = attacked(name, store, tmp_path)
    assert BY_NAME[name].proof in report
    assert bool(count(report, BY_NAME[name].proof)) == (name in NEED_NO_SOCKET)


def test_replay_that_may_not_listen_is_not_made(store, tmp_path, monkeypatch):
    """Without root it caught the PermissionError, sent nothing, and told of nothing wrong."""
    monkeypatch.setattr(wire_attacks, "Wire", forbidden)
    assert "root" in attacked(REPLAY, store, tmp_path)["not_made"]
