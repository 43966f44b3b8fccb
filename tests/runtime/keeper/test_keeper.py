"""What the keeper decides: which signals end the job how, and which ends of its children end it."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.core.state import State
from runtime.keeper import keeper as module
from runtime.keeper.child import STATES
from runtime.keeper.keeper import SAME_STOP_S, Keeper
from runtime.program import DONE, FINAL, NOT_STARTED, REFUSED, Member, Program, StoreAddress
from runtime.signals import relayed
from runtime.state.object_store import StoreError
from runtime.state.status_page import Field


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Child:
    """A child that has ended, or works on; notes that it is restarted."""

    def __init__(
        self, block: int | None, *, code: int | None = None, end: int | None = None
    ) -> None:
        self.block = block
        self.name = "the coordinator" if block is None else f"worker {block}"
        self.named = f"{self.name} (pid 1)"
        self.process = SimpleNamespace(exitcode=code, pid=1)
        self.sources: list[object] = []
        self.memory = None if block is None else SimpleNamespace(page=dict.fromkeys(Field, 0))
        self.said: dict[str, Any] = {} if end is None else {"end": end}
        self.notices: list[str] = []
        self.troubles: list[str] = []
        self.heard: dict[str, object] = {}
        self.rest_until_s = 0.0
        self.too_many = ""
        self.restarted: list[str] = []

    def tell(self, **facts: object) -> None:
        self.heard |= facts

    def join(self, timeout_s: float) -> None:
        """It does not end by being waited for."""

    def await_fork(self, timeout_s: float) -> None:
        """It has been forked."""

    def restart(self, cause: str, *, hung: bool = False) -> None:
        self.restarted.append(cause)

    @property
    def has_ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def has_ended_well(self) -> bool:
        return self.has_ended and self.said.get("end") == DONE

    def count_restart(self, now_s: float) -> str:
        return self.too_many

    def end(self, number: int) -> None:
        self.process.exitcode = -number

    def reach(self, state: State) -> None:
        assert self.memory is not None
        self.memory.page[Field.REACHED] = 5
        self.memory.page[Field.STATE] = STATES.index(state)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def make(clock) -> Iterator[Callable[..., Keeper]]:
    memories: list[int] = []

    def make(*, rank: int | None = None) -> Keeper:
        program = Program(
            resolve=lambda recorded, tell, ranks: pytest.fail("nothing is resolved"),
            load=lambda text: pytest.fail("no job is needed"),
            preload=(),
            run_dir=None,
            name="test",
            run_name="test",
            started_t=0.0,
        )
        member = Member(rank=rank, num_ranks=4, store=StoreAddress(), is_one_host=True)
        keeper = Keeper(program, member=None if rank is None else member)
        memories.extend([keeper._memory] if rank is None else [])
        return keeper

    yield make
    for memory in memories:
        os.close(memory)


def hear(keeper: Keeper, *numbers: int) -> list[int]:
    for number in numbers:
        if number > signal.SIGRTMIN:
            keeper._note_relayed(number, None)
        else:
            keeper._note_signal(number, None)
    return keeper._signals


# Signals ----------------------------------------------------------------------------------------


def test_second_interrupt_by_hand_counts_however_soon(make):
    assert len(hear(make(), signal.SIGINT, signal.SIGINT)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_copies_of_a_schedulers_signal_count_as_one(make, clock, number):
    """A later one is a second. scancel signals a launcher and its ranks, and the launcher
    passes it on: the second copy ended the job at once, without the checkpoint that the first one
    asked for."""
    keeper = make(rank=1)
    assert hear(keeper, number, signal.SIGTERM, relayed(number), number) == [number]
    clock.now_s += SAME_STOP_S
    assert hear(keeper, number) == [number, number]


def test_interrupt_may_come_twice_under_a_launcher_too(make):
    assert hear(make(rank=0), signal.SIGINT, signal.SIGINT) == [signal.SIGINT]


def test_signal_to_a_child_counts_but_never_as_a_second_one(make, clock):
    keeper = make()
    assert hear(keeper, relayed(signal.SIGUSR2)) == [signal.SIGUSR2]
    clock.now_s += 2 * SAME_STOP_S
    assert hear(keeper, relayed(signal.SIGUSR1)) == [signal.SIGUSR2]


# Ends of children -------------------------------------------------------------------------------


def test_job_that_could_not_begin_ends_quietly(make, capsys):
    """The coordinator has said why."""
    for end, expected in ((REFUSED, 2), (NOT_STARTED, 1)):
        for block in (None, 0):
            assert make()._go_on_without(Child(block, code=0, end=end), "ended") == expected
    assert capsys.readouterr().err == ""


def test_coordinator_that_fails_too_often_ends_an_idle_job(make, capsys):
    """Under torchrun it was said over and over that training went on without it: stopped by hand
    after 400 s."""
    keeper, coordinator = make(rank=0), Child(None, code=1)
    coordinator.too_many = "more than 3 restarts"
    keeper._coordinator, keeper._workers = coordinator, [Child(0)]
    assert keeper._go_on_without(coordinator, "failed") == 1
    assert "the coordinator (pid 1) failed; that is more than 3 restarts" in capsys.readouterr().err


@pytest.mark.parametrize(("state", "code"), [(State.FORWARD, None), (State.DONE, 1)])
def test_coordinator_that_fails_too_often_rests_during_training(make, clock, state, code):
    keeper, coordinator, worker = make(rank=0), Child(None, code=1), Child(0)
    coordinator.too_many = "more than 3 restarts"
    keeper._coordinator, keeper._workers = coordinator, [worker]
    worker.reach(state)
    assert keeper._go_on_without(coordinator, "failed") == code
    assert coordinator.restarted == []
    assert bool(coordinator.rest_until_s) is (code is None)
    if code is None:
        clock.now_s = coordinator.rest_until_s
        assert keeper._go_on_without(coordinator, "failed") is None
        assert coordinator.restarted == ["failed"]


def test_worker_that_fails_too_often_ends_the_job_during_training(make):
    keeper, worker = make(rank=0), Child(0, code=1)
    worker.too_many = "more than 3 restarts"
    keeper._workers = [worker]
    worker.reach(State.FORWARD)
    assert keeper._go_on_without(worker, "failed") == 1
    assert worker.restarted == []


def test_job_has_ended_well_when_all_have_said_so(make):
    """A user's os._exit(0) was taken for a good end."""
    keeper = make()
    keeper._coordinator, keeper._workers = Child(None, code=0), [Child(0, code=0)]
    assert not keeper._all_ended_well()
    for child in (keeper._coordinator, *keeper._workers):
        child.said["end"] = DONE
    assert keeper._all_ended_well()


def test_signal_in_the_last_moment_does_not_hold_up_a_job_that_is_done(make, monkeypatch):
    """The lowest worker took it for a stop behind the last step, and the keeper waited for ever;
    Ctrl-C did not end it."""
    keeper = make()
    keeper._coordinator, worker = Child(None, code=0, end=DONE), Child(0, code=0, end=DONE)
    keeper._workers = [worker]
    for child in keeper._children():
        child.listen = lambda: False
    worker.memory.page[Field.STOP_AT] = 33
    hear(keeper, signal.SIGTERM)
    assert keeper._watch() == 0


@pytest.mark.parametrize(
    ("ends", "signals", "told"),
    [
        ([True, True], [], ""),
        ([False, True], [], "test: the last checkpoint is still being written"),
        ([False, False], [], "test: the last checkpoint was not written in time"),
        ([False, False], [signal.SIGINT], "test: the last checkpoint was not written in time"),
    ],
)
def test_last_checkpoint_is_waited_for_and_that_is_told(make, capsys, ends, signals, told):
    keeper = make()
    hear(keeper, signal.SIGTERM)  # too late to stop the job
    gives_up = []

    def close(timeout_s, *, give_up):
        gives_up.append(give_up())
        hear(keeper, *signals)
        gives_up.append(give_up())
        return ends[1]

    keeper._disk = SimpleNamespace(finish=lambda timeout_s: ends[0], close=close)
    keeper._finish_writing(0)
    assert gives_up == [False, bool(signals)]
    err = capsys.readouterr().err
    assert told in err
    assert bool(told) == bool(err)


@pytest.mark.parametrize("code", [REFUSED, FINAL, NOT_STARTED])
def test_exit_code_of_the_users_means_nothing(make, code):
    """A unit's os._exit(2) ended the job with exit code 2 and in silence."""
    died = Child(1, code=code)
    assert make()._go_on_without(died, "failed") is None
    assert died.restarted == ["failed"]


def test_job_that_has_written_all_is_not_stopped(make, capsys):
    """SIGTERM at the last moment: exit code 143 and "resumes from there", and all was written."""
    keeper = make()
    keeper._coordinator = Child(None, end=DONE)
    hear(keeper, signal.SIGTERM)
    assert keeper._stop() is None
    assert capsys.readouterr().err == ""


def test_coordinator_is_not_needed_to_stop(make):
    keeper, coordinator = make(), Child(None, code=143)
    hear(keeper, signal.SIGTERM)
    assert keeper._go_on_without(coordinator, "failed") is None
    assert coordinator.restarted == []


def test_worker_comes_back_unless_it_would_only_fail_again(make, capsys):
    keeper = make()
    died, final = Child(1, code=-9), Child(1, code=1, end=FINAL)
    assert keeper._go_on_without(died, "was killed by SIGKILL") is None
    assert died.restarted == ["was killed by SIGKILL"]
    assert keeper._go_on_without(final, "failed") == 1
    died.too_many = "more than 3 restarts in 300 s"
    assert keeper._go_on_without(died, "was killed by SIGKILL") == 1
    err = capsys.readouterr().err
    assert "worker 1 (pid 1) can't go on; the job is ended" in err
    assert "that is more than 3 restarts in 300 s (--max-worker-restarts)" in err


# Other ranks ------------------------------------------------------------------------------------


@pytest.fixture
def rank(make) -> Callable[..., tuple[Keeper, Child, Child]]:
    """The keeper of a rank, with its registrar and a worker."""

    def make_rank(number: int) -> tuple[Keeper, Child, Child]:
        keeper, registrar, worker = make(rank=number), Child(None), Child(number)
        registrar.name = "the registrar"
        keeper._registrar, keeper._workers = registrar, [worker]
        if number == 0:
            keeper._coordinator = Child(None)
        return keeper, registrar, worker

    return make_rank


@pytest.mark.parametrize("number", [0, 2])
def test_job_that_can_not_go_on_elsewhere_ends_here(rank, number, capsys):
    keeper, registrar, _ = rank(number)
    registrar.said["over"] = "rank 1 (host b) has ended: worker 1 can't go on"
    assert keeper._heed(registrar) == 1
    told = "test: rank 1 (host b) has ended: worker 1 can't go on; the job is ended"
    assert told in capsys.readouterr().err


def test_result_that_is_durable_is_no_failure_whoever_fails_then(rank):
    keeper, registrar, _ = rank(0)
    assert keeper._coordinator is not None
    keeper._coordinator.said["end"] = DONE
    registrar.said["over"] = "nothing was heard of rank 1 (host b) for 91 s"
    assert keeper._heed(registrar) is None


def test_signal_at_another_rank_stops_this_one_and_is_named(rank, capsys):
    keeper, registrar, worker = rank(0)
    registrar.said |= {"stop": int(signal.SIGTERM), "stop_by": "rank 2 (host b)"}
    assert keeper._heed(registrar) is None
    assert keeper._signals == [signal.SIGTERM]
    worker.reach(State.FORWARD)
    assert keeper._stop() is None
    assert worker.memory.page[Field.STOP_WANTED] == 1
    told = "SIGTERM at rank 2 (host b): stopping at a checkpoint"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("has_begun", [True, False])
def test_own_signal_is_told_to_the_other_ranks(rank, has_begun):
    keeper, registrar, worker = rank(2)
    if has_begun:
        worker.reach(State.FORWARD)
    hear(keeper, signal.SIGTERM)
    keeper._stop()
    assert registrar.heard == {"stop": signal.SIGTERM}


def test_rank_whose_worker_was_stopped_waits_for_the_signal(rank, clock):
    """The word of the worker below was faster: this rank ended with 0, the others with 143."""
    keeper, _, worker = rank(2)
    worker.process.exitcode, worker.said["end"] = 0, DONE
    assert keeper._all_ended_well()
    assert not keeper._is_stopped(), "it is at its end"
    worker.said["is_stopped"] = True
    assert keeper._is_stopped()
    assert keeper._signals == []
    clock.now_s += 11.0
    assert keeper._is_stopped()
    assert keeper._signals == [signal.SIGTERM]


def test_spare_rank_stays_until_the_others_are_done(rank, capsys):
    keeper, registrar, worker = rank(3)
    worker.process.exitcode, worker.said = 0, {"end": DONE, "is_spare": True}
    worker.notices = ["rank 3 is spare: the job has 3 workers"]
    keeper._say_what_workers_say()
    assert "rank 3 is spare" in capsys.readouterr().err
    assert not keeper._all_ended_well()
    registrar.said["has_left"] = True
    assert keeper._all_ended_well()


def test_trouble_of_a_worker_goes_to_rank_0_once(rank, capsys):
    keeper, registrar, worker = rank(2)
    worker.troubles = ["worker 2 does not reach worker 1"]
    for _ in range(2):
        assert keeper._heed(registrar) is None
    assert registrar.heard == {"trouble": "worker 2 does not reach worker 1"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("code", "signals", "heard"),
    [
        (0, (), {"presence": "left"}),
        (REFUSED, (), {"presence": "left"}),
        (143, (signal.SIGTERM,), {"presence": "left"}),
        (1, (), {"presence": "failed", "why": "exit code 1"}),
    ],
)
def test_rank_that_leaves_says_how(rank, code, signals, heard):
    keeper, registrar, _ = rank(1)
    hear(keeper, *signals)
    keeper._leave(code)
    assert registrar.heard == heard


# Where the job resumes --------------------------------------------------------------------------


def test_end_says_that_the_checkpoints_can_not_be_read_now(make, monkeypatch):
    """A store that is away must not keep a stopped job from its end."""

    def silent(storage: object) -> None:
        raise StoreError(errno.ETIMEDOUT, "the store has not answered in 3 s")

    monkeypatch.setattr(module, "last_committed", silent)
    keeper, worker = make(), Child(0)
    place = "memory://test/run"
    worker.said |= {"run_dir": "/run", "checkpoint_dir": place}
    keeper._workers = [worker]
    keeper._disk = SimpleNamespace(close=lambda timeout_s: True)
    assert keeper._how_to_resume() == (
        f"; the checkpoints in {place} can't be read now (the store has not answered in 3 s)"
    )
