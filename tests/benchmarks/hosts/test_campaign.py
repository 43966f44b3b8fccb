"""What the benchmark of hosts starts and hurts, and what it calls wrong."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.hosts import campaign
from benchmarks.hosts.campaign import FAULTS, HOWS, KINDS, Case, Options, cases, run_case


def test_everything_is_run_unless_told_otherwise():
    found = list(cases(Options()))
    assert {case.kind for case in found} == set(KINDS)
    assert {case.how for case in found if case.kind == "starts"} == set(HOWS)
    assert {case.num_hosts for case in found if case.kind == "starts"} == {2, 3}
    assert any(case.ipv6 for case in found)
    for fault in FAULTS:
        assert sorted(case.seed for case in found if case.kind == fault) == list(range(5))


def test_only_what_is_asked_for_is_run():
    found = list(cases(Options(only=("rank-kill", "link-down:7"), seeds=2)))
    assert [case.kind for case in found] == 2 * ["rank-kill"] + 2 * ["link-down:7"]
    (case, *_) = cases(Options(only=("starts",), hows=("env",)))
    assert case.how == "env"


class Job:
    """A job that ends as it is told."""

    def __init__(self, codes: list[int], sha256: str = "expected", left: tuple[int, ...] = ()):
        self.codes, self._left = codes, left
        self.processes = [SimpleNamespace(host=0) for _ in codes]
        self.summary = {"weights_sha256": sha256} if sha256 else {}
        self.text = "what it printed"

    def start(self) -> None: ...

    def finish(self, timeout_s: float) -> bool:
        return None not in self.codes

    def end(self) -> list[int]:
        return list(self._left)


@pytest.mark.parametrize(
    ("job", "wrong"),
    [
        (Job([0, 0]), []),
        (Job([0, 1]), ["exit codes [0, 1]"]),
        (Job([0, 0], "another"), ["other weights"]),
        (Job([0, 0], ""), ["no weights"]),
        (Job([0, 0], left=(7,)), ["left behind: [7]"]),
        (Job([0, None]), ["does not end", "exit codes [0, None]"]),
    ],
)
def test_what_differs_from_one_host_is_wrong(monkeypatch, tmp_path, job, wrong):
    class Hosts:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(campaign, "Hosts", Hosts)
    monkeypatch.setattr(campaign, "HostsJob", lambda **_: job)
    record = run_case(Case(kind="starts", how="env"), "expected", Path(tmp_path))
    assert record["wrong"] == wrong
    assert ("text" in record) is bool(wrong)
