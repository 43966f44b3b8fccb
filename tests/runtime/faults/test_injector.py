"""Each fault of a plan strikes its own worker, at its step, once in a run."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.core.messages import Phase
from runtime.core.plan import Side
from runtime.faults import injector as injection
from runtime.faults.faulty_link import FaultyLink
from runtime.faults.injector import FOR_EVER_S, InjectedFault, Injector
from runtime.faults.log import FaultLog
from runtime.faults.plan import KINDS, Place, parse

KEEPER_PID = 4_194_305


@pytest.fixture
def done(monkeypatch) -> list[object]:
    """What would have been done to this process."""
    done: list[object] = []
    monkeypatch.setattr(injection, "_kill_self", lambda: done.append("killed"))
    monkeypatch.setattr(injection, "_exhaust_memory", lambda: done.append("no memory"))
    monkeypatch.setattr(injection, "_hold_gil", lambda: done.append("GIL held"))
    kill = lambda pid, number: done.append((pid, number))  # noqa: E731
    monkeypatch.setattr(injection, "os", SimpleNamespace(**vars(os) | {"kill": kill}))
    monkeypatch.setattr(injection, "time", SimpleNamespace(sleep=done.append))
    return done


@pytest.fixture
def make(tmp_path) -> Callable[..., Injector]:
    def make(faults: str, k: int = 1, *, generation: int = 0, run_dir: Path = tmp_path) -> Injector:
        log = FaultLog(run_dir, generation=generation)
        return Injector(parse(faults), k, log, keeper_pid=KEEPER_PID)

    return make


def begin(injector: Injector, *steps: int) -> None:
    for step in steps:
        for phase in Phase:
            injector.begin(phase, step)
            injector.end(step, 0.25)


# Steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "deeds"),
    [
        ("kill:1@3", ["killed"]),
        ("zombie:1@3", ["killed"]),
        ("kill-restarting:1@3", ["killed"]),
        ("oom:1@3", ["no memory"]),
        ("gil:1@3", ["GIL held"]),
        ("stop:1@3", [(os.getpid(), signal.SIGSTOP)]),
        ("hang:1@3", [FOR_EVER_S]),
        ("keeper-kill:1@3", [(KEEPER_PID, signal.SIGKILL), FOR_EVER_S]),
        ("nan:1@3", []),
        ("disk-full:1@3,torn:1@3,flip:1@3,coordinator-kill@3", []),
    ],
)
def test_fault_strikes_at_its_step_and_at_its_worker(make, done, fault, deeds):
    begin(make(fault, k=0), 2, 3, 4)
    begin(make(fault), 0, 1, 2)
    assert done == []
    begin(make(fault), 3)
    assert done == deeds


def test_fault_does_not_strike_a_later_generation(make, done):
    begin(make("kill:1@3,kill:1@4"), 3)
    begin(make("kill:1@3,kill:1@4", generation=1), 2, 3)
    assert done == ["killed"]
    begin(make("kill:1@3,kill:1@4", generation=1), 4)
    assert done == ["killed"] * 2


def test_fault_strikes_another_run_anew(make, done, tmp_path):
    (tmp_path / "other").mkdir()
    begin(make("kill:1@3"), 3)
    begin(make("kill:1@3", run_dir=tmp_path / "other"), 3)
    assert done == ["killed"] * 2


def test_exception_is_raised_on_the_compute_thread(make):
    injector = make("exit:1@3")
    with pytest.raises(InjectedFault):
        injector.begin(Phase.FORWARD, 3)
    injector.begin(Phase.FORWARD, 3)


def test_slow_steps_take_their_factor_longer(make, done):
    begin(make("slow:1@3x3+2"), 2, 3, 4, 5)
    assert done == [0.5] * 2 * len(Phase)
    begin(make("slow:1@3x3+2", generation=1), 4)  # it is a state, not a stroke
    assert done == [0.5] * 3 * len(Phase)


def test_whole_job_dies_with_the_process_that_started_it(make, done, monkeypatch):
    keeper = SimpleNamespace(pid=KEEPER_PID, ppid=lambda: 17)
    monkeypatch.setattr(injection, "psutil", SimpleNamespace(Process=lambda pid: keeper))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    begin(make("job-kill@3", k=1), 3)
    assert done == []  # the lowest worker does it
    begin(make("job-kill@3", k=0), 3)
    assert done == [(KEEPER_PID, signal.SIGKILL), FOR_EVER_S]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    begin(make("job-kill@4", k=0), 4)
    assert done[2:] == [(17, signal.SIGKILL), FOR_EVER_S]


def test_loop_turns_freely_until_it_is_to_spin(make):
    injector = make("spin:1@3")
    injector.turn()
    begin(injector, 3)
    assert injector._spins


def test_block_faults_all_have_someone_to_carry_them_out():
    of_disk = {"disk-full", "torn", "flip"}
    elsewhere = {"slow", "kill-snapshotting", "kill-checkpointing", "coordinator-kill"} | of_disk
    edges = {kind for kind, told in KINDS.items() if told.place is Place.EDGE}
    assert set(injection._DEEDS) == KINDS.keys() - edges - elsewhere


# Checkpoints and starts -------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["snapshotting", "checkpointing"])
def test_death_in_the_next_saving_from_a_step_on(make, done, where):
    injector = make(f"kill-{where}:1@10")
    save = {"snapshotting": Injector.snapshotting, "checkpointing": Injector.checkpointing}
    begin(injector, 9, 10, 11)
    save[where](injector, 8)
    assert done == []
    for other in save.keys() - {where}:
        save[other](injector, 12)
    assert done == []
    save[where](injector, 12)
    assert done == ["killed"]
    later = make(f"kill-{where}:1@10", generation=1)
    save[where](later, 12)
    save[where](later, 16)
    assert done == ["killed"]


def test_second_death_during_the_recovery_of_the_first(make, done):
    make("kill-restarting:1@3,kill:1@9").starting()
    assert done == []  # the first has not struck yet
    begin(make("kill-restarting:1@3,kill:1@9"), 3)
    make("kill-restarting:1@3,kill:1@9", generation=1).starting()
    assert done == ["killed"] * 2
    make("kill-restarting:1@3,kill:1@9", generation=2).starting()
    assert done == ["killed"] * 2


# Links ------------------------------------------------------------------------------------------

LINKS = {Side.BELOW: SimpleNamespace(), Side.ABOVE: SimpleNamespace()}


def faulty_sides(injector: Injector) -> set[Side]:
    return {s for s, link in injector.wrap(LINKS).items() if isinstance(link, FaultyLink)}


@pytest.mark.parametrize(
    ("faults", "sides"),
    [
        ("", set()),
        ("kill:1@3,slow:1@4", set()),
        ("drop:2-3@3", set()),
        ("drop:0-1@3", {Side.BELOW}),
        ("drop:1-0@3", {Side.BELOW}),
        ("cut:2-1@3", {Side.ABOVE}),
        ("drop:0-1@3,cut:2-1@3", {Side.BELOW, Side.ABOVE}),
        ("zombie:1@3", set()),
    ],
)
def test_links_are_faulty_if_the_plan_says_so(make, faults, sides):
    injector = make(faults)
    assert faulty_sides(injector) == sides
    for side, link in injector.wrap(LINKS).items():
        assert (link is LINKS[side]) == (side not in sides)


def test_generation_after_a_zombie_speaks_for_it(make, done):
    begin(make("zombie:1@3"), 3)
    assert faulty_sides(make("zombie:1@3", generation=1)) == {Side.BELOW, Side.ABOVE}
