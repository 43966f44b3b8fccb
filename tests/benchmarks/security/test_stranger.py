"""A stranger takes no more of a core than it may, ends when told, and has only what it may have."""

import threading
import time

import pytest

from benchmarks.security.budget import Budget
from benchmarks.security.login_attacks import _tried
from benchmarks.security.store_attacks import UNITS


def test_budget_is_a_share_of_a_core():
    budget = Budget(0.5, threading.Event())
    began_s = time.monotonic()
    while time.monotonic() - began_s < 0.1:
        sum(range(10_000))
        assert budget.pay()
    assert budget.taken < 0.75


def test_budget_does_not_outlast_the_attack():
    over = threading.Event()
    budget = Budget(1e-9, over)
    sum(range(100_000))
    over.set()
    assert not budget.pay()
    assert not budget.rest(60)


def test_forged_units_tell_who_ran_them(tmp_path):
    marker = tmp_path / "marker"
    compiled = compile(UNITS.format(marker=str(marker)), "units.py", "exec")
    exec(compiled, {})
    assert marker.read_text().isdigit()


def test_what_may_be_read_is_found(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert {("r", str(secret)), ("w", str(secret)), ("r", str(tmp_path))} <= set(_tried(tmp_path))
    assert list(_tried(tmp_path / "none")) == []


@pytest.mark.parametrize("share", [0.05])
def test_budget_counts_from_its_beginning(share):
    sum(range(1_000_000))
    assert Budget(share, threading.Event()).cpu_s < 0.05
