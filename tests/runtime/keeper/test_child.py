"""When a worker is taken to hang, how often it may come back, and what is said of its end."""

import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from runtime.core.state import State
from runtime.keeper import child as child_module
from runtime.keeper import fork_server
from runtime.keeper.child import (
    FIRST_NOTICE_S,
    FIRST_STEP_PATIENCE,
    LEAVING_TIMEOUT_S,
    REMEDY,
    RESTART_WINDOW_S,
    WAIT_MARGIN,
    Child,
)
from runtime.program import DONE, Meeting, Program, StoreAddress
from runtime.state.status_page import Field

LIMIT_S = 10.0
PHASE_LIMIT_S = 200.0
WAITING = set(State) - {State.FORWARD, State.UPDATE, State.APPLY}


class FakeProcess:
    """A process that ends when the test says so."""

    def __init__(self, args: tuple[Any, ...]) -> None:
        *_, self.start_facts, self.pipe = args
        self.pid: int | None = None
        self.sentinel = 0
        self.exitcode: int | None = None

    def start(self) -> None:
        """It runs, as far as anyone can tell."""
        self.pid = 2**22 + 1  # beyond any that there is

    def join(self, timeout_s: float) -> None:
        """It does not end by being waited for."""

    def close(self) -> None:
        """It holds nothing."""


class Case:
    """A child over fake processes, on a clock that begins with 0."""

    def __init__(self, *, block: int | None = 0, max_restarts: int = 3) -> None:
        self.generations: list[FakeProcess] = []
        program = Program(
            resolve=lambda recorded, tell, ranks: pytest.fail("nothing is resolved"),
            load=lambda text: pytest.fail("no job is needed"),
            preload=(),
            run_dir=None,
            name="test",
            run_name="test",
            started_t=0.0,
            hang_timeout_s=LIMIT_S,
            phase_timeout_s=PHASE_LIMIT_S,
            max_worker_restarts=max_restarts,
        )
        name = "the coordinator" if block is None else f"worker {block}"
        context = SimpleNamespace(Pipe=self._pipe, Process=self._process)
        meeting = Meeting(store=StoreAddress(), keeper_pid=os.getpid())
        self.child = Child(context, "module:body", program, meeting, name=name, block=block)

    def _pipe(self) -> tuple[Any, Any]:
        ours, theirs = Pipe()
        return ours, SimpleNamespace(close=lambda: None, real=theirs)

    def _process(self, *, target: object, args: tuple[Any, ...], name: str) -> FakeProcess:
        self.generations.append(FakeProcess(args))
        return self.generations[-1]

    def turn(self, state: State, *, step: int = 5, steps_done: int = 1) -> None:
        """A turn of the worker's loop, which has begun."""
        assert self.child.memory is not None
        if self.child.phase:
            self.say(phase="")
            self.child.listen()
        page = self.child.memory.page
        page[Field.TURNS] += 1
        page[Field.STATE], page[Field.STEP] = list(State).index(state), step
        page[Field.STEPS_DONE] = steps_done

    def say(self, **facts: object) -> None:
        self.generations[-1].pipe.real.send_bytes(msgpack.packb(facts))

    def close(self) -> None:
        self.child.close()
        for process in self.generations:
            process.pipe.real.close()


@pytest.fixture
def make(monkeypatch) -> Iterator[Callable[..., Case]]:
    monkeypatch.setattr(child_module, "time", SimpleNamespace(monotonic=float, time=float))
    monkeypatch.setattr(fork_server, "is_ready", lambda: True)
    cases: list[Case] = []

    def make(**options: Any) -> Case:
        cases.append(Case(**options))
        return cases[-1]

    yield make
    for case in cases:
        case.close()


@pytest.fixture
def case(make) -> Case:
    return make()


# Progress ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(WAITING, key=lambda state: state.value))
def test_child_that_waits_in_good_health_is_left_alone(case, state):
    for now_s in range(0, 1000, 5):
        case.turn(state)
        assert case.child.hangs(now_s) == ""


@pytest.mark.parametrize("state", list(State))
def test_loop_that_does_not_turn_hangs_whatever_it_does(case, state):
    case.turn(state)
    assert case.child.hangs(3.0) == ""
    assert case.child.hangs(3.0 + LIMIT_S) == ""
    assert case.child.hangs(3.1 + LIMIT_S) == f"its loop has not turned for 10.1 s{REMEDY}"


@pytest.mark.parametrize("state", sorted(set(State) - WAITING, key=lambda state: state.value))
def test_computing_beyond_the_limit_hangs(case, state):
    case.turn(state)
    assert case.child.hangs(2.0) == ""
    case.turn(state)
    assert case.child.hangs(2.0 + LIMIT_S) == ""
    case.turn(state)
    assert (
        case.child.hangs(2.1 + LIMIT_S)
        == f"the {state.value} of step 5 has not ended in 10.0 s{REMEDY}"
    )


def test_each_phase_and_each_step_has_its_own_time(case):
    phases = (State.FORWARD, State.UPDATE, State.APPLY)
    for now_s, (step, state) in enumerate((s, p) for s in range(5) for p in phases):
        case.turn(state, step=step)
        assert case.child.hangs(0.9 * LIMIT_S * now_s) == ""


def test_wait_in_between_begins_the_time_anew(case):
    for now_s, state in ((0, State.UPDATE), (9, State.WAIT_TIE), (18, State.UPDATE)):
        case.turn(state)
        assert case.child.hangs(now_s) == ""
    case.turn(State.UPDATE)
    assert case.child.hangs(27) == ""


def test_first_step_of_a_generation_has_five_times_the_limit(case):
    case.turn(State.FORWARD, step=0, steps_done=0)
    assert case.child.hangs(0.0) == ""
    case.turn(State.FORWARD, step=0, steps_done=0)
    assert case.child.hangs(FIRST_STEP_PATIENCE * LIMIT_S) == ""
    case.turn(State.FORWARD, step=0, steps_done=0)
    late = FIRST_STEP_PATIENCE * LIMIT_S + 0.1
    assert case.child.hangs(late) == f"the forward of step 0 has not ended in 50.0 s{REMEDY}"


def test_snapshot_that_never_becomes_durable_hangs_in_any_state(case):
    """Nothing but computing was bounded: a copy that stuck at the end was waited for for ever."""
    page = case.child.memory.page
    for now_s in range(0, 100, 5):
        case.turn(State.DRAINING)
        page[Field.SAVING] = 1 + now_s  # one after the other
        assert case.child.hangs(now_s) == ""
    case.turn(State.DRAINING)
    assert case.child.hangs(95 + LIMIT_S) == ""
    case.turn(State.DRAINING)
    late = f"the snapshot of step 95 has not ended in {LIMIT_S:.1f} s{REMEDY}"
    assert case.child.hangs(95.1 + LIMIT_S) == late
    page[Field.SAVING] = 0
    assert case.child.hangs(95.1 + LIMIT_S) == ""


def test_wait_for_the_disk_is_not_counted(case):
    page = case.child.memory.page
    page[Field.SAVING], page[Field.CHECKPOINT] = 13, 13
    for now_s in range(0, 100, 5):
        case.turn(State.WAIT_CREDIT)
        assert case.child.hangs(now_s) == ""
    page[Field.CHECKPOINT_DONE] = 13
    case.turn(State.WAIT_CREDIT)
    assert case.child.hangs(95 + LIMIT_S) == ""
    case.turn(State.WAIT_CREDIT)
    assert "the snapshot of step 12" in case.child.hangs(95.1 + LIMIT_S)


def test_each_phase_before_the_steps_has_a_bound_and_a_name(case):
    """A `load()` that slept for ever was not noticed: a start as a whole had ten minutes, and no
    one said what it was at."""
    assert case.child.hangs(PHASE_LIMIT_S) == ""
    late = PHASE_LIMIT_S + 0.1
    assert case.child.hangs(late) == "it has been starting for 200.1 s (--phase-timeout-s)"
    case.say(phase="loading the data")
    case.child.listen()
    assert case.child.hangs(late) == "it has been loading the data for 200.1 s (--phase-timeout-s)"


def test_child_that_waits_for_others_has_time_for_their_restarts(case):
    case.say(phase="waiting for the coordinator", waits=True)
    case.child.listen()
    most_s = WAIT_MARGIN * 5 * PHASE_LIMIT_S  # a start, three restarts, and one to spare
    assert case.child.hangs(most_s) == ""
    late = case.child.hangs(most_s + 0.1)
    assert late == "it has been waiting for the coordinator for 1100.1 s"


def test_phase_that_says_what_it_takes_has_that_time_twice(case):
    """A healthy evaluation of a large set was killed four times, and its result lost."""
    case.say(phase="evaluating", takes_s=PHASE_LIMIT_S)
    case.child.listen()
    assert case.child.hangs(2 * PHASE_LIMIT_S) == ""
    assert case.child.hangs(2 * PHASE_LIMIT_S + 0.1) == "it has been evaluating for 400.1 s"


def test_next_generation_is_told_the_phase_that_hung(case):
    case.say(phase="evaluating: unit a")
    case.child.listen()
    case.generations[0].exitcode = -9
    case.child.restart("was killed", hung=True)
    case.generations[1].exitcode = 1
    case.child.restart("failed")
    assert [process.start_facts.hung_in for process in case.generations] == [
        "",
        "evaluating: unit a",
        "",
    ]


def test_process_that_could_not_be_started_has_ended(case):
    """Its keeper waited for it, deaf to signals, and left the others behind."""
    assert case.child.named == f"{case.child.name} (pid {case.generations[0].pid})"
    case.generations[0].pid = None
    assert case.child.named == case.child.name
    assert case.child.has_ended
    case.child.kill()


def test_phase_that_lasts_is_told_less_and_less_often(case):
    case.say(phase="loading the data")
    case.child.listen()
    told = {s: said for s in range(101) if (said := case.child.notice(float(s)))}
    assert list(told) == [FIRST_NOTICE_S, 2 * FIRST_NOTICE_S, 4 * FIRST_NOTICE_S, 80.0]
    assert told[20] == (
        "worker 0 has been loading the data for 20 s; it is replaced after 200 s"
        " (--phase-timeout-s)"
    )


def test_steps_are_no_phase_to_tell_of(case):
    case.turn(State.FORWARD)
    assert case.child.notice(10**6) == ""


def test_coordinator_hangs_in_a_phase_it_does_not_say_again(make, monkeypatch):
    """One that was stopped while it followed the steps was never replaced: the job did not end."""
    child = (case := make(block=None)).child
    for now_s in range(0, 1000, 100):
        monkeypatch.setattr(child_module.time, "monotonic", lambda now_s=now_s: float(now_s))
        case.say(phase="following the steps")
        child.listen()
        assert child.hangs(now_s + 100.0) == ""
    assert "following the steps for 200.1 s" in child.hangs(900 + PHASE_LIMIT_S + 0.1)


def test_coordinator_without_progress_is_restarted_so_often_only(make):
    """Each generation took longer than the window of restarts, so that it came back for ever."""
    case = make(block=None, max_restarts=2)
    assert [case.child.count_restart(1000.0 * n) for n in range(2)] == ["", ""]
    case.say(reached=1)
    case.child.listen()
    assert [case.child.count_restart(2000.0 + 1000.0 * n) for n in range(3)] == ["", "", ""]
    assert case.child.count_restart(5000.0) == "2 restarts without progress"


def test_child_that_leaves_has_time_to_close_what_is_open(case):
    """Its loop has ended, and what it said last may still be on its way."""
    case.turn(State.DONE)
    assert case.child.hangs(0.0) == ""
    case.child.memory.page[Field.LEAVING] = 1
    assert case.child.hangs(LEAVING_TIMEOUT_S) == ""
    assert "its loop has not turned" in case.child.hangs(LEAVING_TIMEOUT_S + 0.1)


# Lives ------------------------------------------------------------------------------------------


def test_new_generation_has_the_memory_and_not_the_progress(case):
    page = case.child.memory.page
    case.turn(State.UPDATE)
    assert case.child.hangs(3.0) == ""
    page[Field.COMPLETED] = 6
    case.say(traceback="Oh no", run_dir="runs/x")
    case.child.listen()
    case.generations[0].exitcode = 1
    case.child.restart("failed")

    first, second = (process.start_facts for process in case.generations)
    assert (first.generation, second.generation, second.cause) == (0, 1, "failed")
    assert first.memory == second.memory == case.child.memory.paths
    assert [page[w] for w in (Field.TURNS, Field.STATE, Field.STEPS_DONE, Field.LEAVING)] == [0] * 4
    assert page[Field.COMPLETED] == 6
    assert case.child.said == {"run_dir": "runs/x"}
    assert case.child.phase == "starting"


def test_second_generation_at_once_is_refused(case):
    with pytest.raises(AssertionError, match="zombie"):
        case.child.restart("for no reason")


def progress(case, steps: int) -> None:
    case.child.memory.page[Field.COMPLETED] += steps


def test_restarts_are_counted_within_a_window(make):
    case = make(max_restarts=2)
    for now_s in (0.0, 100.0):
        progress(case, 1)
        assert case.child.count_restart(now_s) == ""
    progress(case, 1)
    assert case.child.count_restart(RESTART_WINDOW_S) == "more than 2 restarts in 300 s"


def test_restarts_long_ago_do_not_count_if_there_is_progress(make):
    case = make(max_restarts=2)
    for now_s in (0.0, 100.0, RESTART_WINDOW_S + 1, RESTART_WINDOW_S + 101):
        progress(case, 1)
        assert case.child.count_restart(now_s) == ""
    progress(case, 1)
    assert "more than 2" in case.child.count_restart(RESTART_WINDOW_S + 102)


def test_generations_without_progress_end_the_job_however_long(make):
    """A step that never ends was seen only after minutes, so that no window ever filled up."""
    case = make(max_restarts=2)
    progress(case, 5)
    for n in range(3):
        assert case.child.count_restart(1000.0 * n) == ""
    assert case.child.count_restart(3000.0) == "2 restarts without progress"
    progress(case, 1)
    assert case.child.count_restart(4000.0) == ""


def test_restart_is_refused_if_none_is_allowed(make):
    case = make(max_restarts=0)
    progress(case, 1)
    assert "more than 0" in case.child.count_restart(0.0)


def test_child_has_ended_well_only_if_it_says_so(case):
    """The next generation has to say it again."""
    case.generations[0].exitcode = 0
    assert not case.child.has_ended_well
    case.say(end=DONE)
    case.child.listen()
    assert case.child.has_ended_well
    case.child.restart("for the next attempt")
    case.generations[1].exitcode = 0
    assert not case.child.has_ended_well


# Words ------------------------------------------------------------------------------------------


def test_messages_of_a_child_are_stored_and_a_part_told_once(case):
    case.say(run_dir="runs/x", run_id="ab")
    assert not case.child.listen()
    case.say(checkpoint=True)
    case.say(num_workers=4)
    assert case.child.listen()
    assert not case.child.listen()
    assert case.child.said == {"run_dir": "runs/x", "run_id": "ab", "num_workers": 4}


def test_last_messages_are_heard_after_the_end(case):
    case.say(checkpoint=True)
    case.say(traceback="Traceback ...\nValueError: no")
    case.generations[0].pipe.real.close()
    assert case.child.listen()
    case.generations[0].exitcode = 1
    assert case.child.how_it_ended() == "failed with exit code 1 (ValueError: no)"


@pytest.mark.parametrize(
    ("code", "described"),
    [
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (1, "failed with exit code 1"),
        (0, "left with exit code 0 before its end: did user code exit?"),
    ],
)
def test_end_is_described(case, code, described):
    case.generations[0].exitcode = code
    assert case.child.how_it_ended() == described


def test_long_message_is_cut_until_the_job_ends(case):
    case.say(traceback="Traceback ...\nValueError: " + "x" * 5000)
    case.child.listen()
    case.generations[0].exitcode = 1
    assert len(case.child.how_it_ended()) < 300


def test_fork_server_that_was_killed_is_started_again(make, monkeypatch):
    """The keeper died of an EOFError."""
    starts: list[FakeProcess] = []

    def start(process: FakeProcess) -> None:
        starts.append(process)
        if len(starts) == 1:
            raise EOFError

    monkeypatch.setattr(FakeProcess, "start", start)
    case = make()
    case.child.listen()
    assert len(case.generations) == 1
    assert len(starts) == 2
    assert case.child.sources


def test_fork_server_that_is_killed_again_and_again_is_an_error(make, monkeypatch):
    def start(process: FakeProcess) -> None:
        raise EOFError

    monkeypatch.setattr(FakeProcess, "start", start)
    case = make()
    with pytest.raises(EOFError):
        case.child.listen()


def test_child_waits_for_a_fork_server_that_is_not_ready(make, monkeypatch):
    """Its keeper waited with it: it told nothing, and Ctrl-C did nothing."""
    monkeypatch.setattr(fork_server, "is_ready", lambda: False)
    ended: list[str] = []
    monkeypatch.setattr(fork_server, "end", lambda: ended.append("server"))
    child = make().child
    assert (child.has_ended, child.sources) == (False, [])
    assert child.notice(FIRST_NOTICE_S).startswith("worker 0 has been starting for 10 s")
    assert child.hangs(PHASE_LIMIT_S + 1.0) == (
        "it has been starting for 201.0 s (--phase-timeout-s)"
    )
    child.kill()
    assert (child.has_ended, ended) == (True, ["server"])
    monkeypatch.setattr(fork_server, "is_ready", lambda: True)
    child.restart("was killed", hung=True)
    assert (child.has_ended, len(child.sources)) == (False, 2)


def test_signal_to_one_that_has_just_ended_is_no_error(case):
    case.child.kill()
    case.generations[0].exitcode = 0
    case.child.kill()


def test_child_has_a_name(make):
    assert [make(block=k).child.name for k in (None, 3)] == ["the coordinator", "worker 3"]
