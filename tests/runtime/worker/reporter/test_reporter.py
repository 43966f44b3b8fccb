"""A worker's end of its talk with the coordinator: handing in, being measured, leaving."""

from collections.abc import Iterator
from typing import Any

import pytest
import safetensors.torch
import torch

from runtime import digest
from runtime.core.plan import Stream
from runtime.core.state import State
from runtime.core.tie_stats import TieStats
from runtime.state.status_page import Word
from runtime.worker import reporter as reporting
from runtime.worker.reporter import ASK_EVERY_S, STOP_LINGER_S
from runtime.worker.telemetry import figures_of

from .conversation import HOME, NUM_STEPS, STATE, TIME_ALONE_S, Clock, Conversation

ACTIVATION, TIE = (torch.ones(2),), (torch.zeros(2),)


@pytest.fixture
def talk(memory, monkeypatch) -> Iterator[Conversation]:
    clock = Clock()
    monkeypatch.setattr(reporting, "time", clock)
    conversation = Conversation(memory, clock)
    yield conversation.begin()
    conversation.end()


# The result -------------------------------------------------------------------------------------


def test_a_result_is_handed_in_only_when_it_is_asked_for(talk):
    talk.finish()
    talk.turn()
    assert talk.heard("result") == []
    result = talk.hand_in()
    talk.turn()
    assert talk.heard("result") == []
    for _ in range(2):  # by a coordinator that has taken over
        talk.order("hand-in")
    talk.turn()
    assert talk.heard("result") == [result, result]


def test_what_is_asked_for_too_early_is_not_there(talk):
    talk.order("hand-in")
    talk.turn()
    talk.finish()
    assert talk.heard("result") == []


def test_a_result_holds_figures_digests_and_weights(talk):
    talk.driver.telemetry.count_step(NUM_STEPS - 1)
    talk.driver.telemetry.step_done(NUM_STEPS - 1, figures_of(talk.block))
    talk.driver.telemetry.dropped_reports = 2
    talk.page[Word.RETRAINED] = 4
    talk.finish()
    result, weights = talk.hand_in()
    assert result["digests"] == digest.block_records(1, STATE)
    assert result["last"]["step"] == NUM_STEPS - 1
    counters = {"sent": 12, "trained": 12, "retrained": 4, "bad_steps": 1, "dropped_reports": 2}
    assert counters.items() <= result["counters"].items()
    loaded = safetensors.torch.load(weights)
    assert loaded.keys() == HOME.keys()
    assert all(torch.equal(loaded[name], HOME[name]) for name in HOME)


def test_the_result_is_that_of_the_end_whatever_is_measured_after_it(talk):
    talk.begin(k=0).finish()
    talk.order("measure")
    talk.turn()
    talk.driver.compute()
    talk.block.state = talk.block.home_state = dict
    result, weights = talk.hand_in()
    assert result["digests"] == digest.block_records(0, STATE)
    assert safetensors.torch.load(weights).keys() == HOME.keys()


# Reports ----------------------------------------------------------------------------------------


def test_the_end_is_reported_at_once_and_once(talk):
    talk.turn()
    assert talk.heard("report") == []
    talk.driver.telemetry.count_step(NUM_STEPS - 1)
    talk.driver.telemetry.step_done(NUM_STEPS - 1, figures_of(talk.block))
    talk.finish()
    (report,) = talk.heard("report")
    assert (report["finished"], report["state"], report["queue_depth"]) == (True, "done", 2)
    assert [record["step"] for record in report["records"]] == [NUM_STEPS - 1]
    talk.turn()
    assert talk.heard("report") == []


def test_reports_go_on_to_say_that_the_result_is_there(talk):
    """The coordinator asks for it by them, also one that has taken over."""
    talk.begin(k=2, every_s=0.0).finish()
    talk.heard("report")
    talk.turn()
    assert [report["finished"] for report in talk.heard("report")] == [True]


def test_a_life_that_comes_back_behind_the_end_is_healed_by_it(talk):
    talk.begin(generation=1).finish()
    (report,) = talk.heard("report")
    assert [record["event"] for record in report["records"]] == ["restart", "healed"]


def test_a_report_that_finds_no_room_is_lost_and_counted(talk):
    telemetry = talk.begin(k=2, every_s=0.0).driver.telemetry
    num_turns = 0
    while telemetry.dropped_reports < 3:  # nobody listens
        talk.turn()
        num_turns += 1
    assert len(talk.heard("report")) == num_turns - 3
    for _ in range(2):  # the first one may not have noticed yet that there is room
        talk.turn()
    assert talk.heard("report")[-1]["dropped_reports"] == telemetry.dropped_reports


def test_what_is_counted_adds_up_over_lives(talk):
    for generation in range(2):
        talk.begin(generation=generation)
        for factor in (1, 2):  # within a life it is the same count that grows
            core = talk.driver.core
            core.edges.num_resent, core.edges.num_duplicates = 1 * factor, 10 * factor
            core.edges.num_fenced, talk.driver.damaged = 100 * factor, 1000 * factor
            talk.turn()
    words = (Word.RESENT, Word.DUPLICATES, Word.FENCED, Word.DAMAGED)
    assert [talk.page[word] for word in words] == [4, 40, 400, 4000]
    talk.finish()
    result, _ = talk.hand_in()
    names = ("replayed", "duplicates_dropped", "fenced", "damaged")
    assert [result["counters"][name] for name in names] == [4, 40, 400, 4000]


def test_what_timing_decided_is_told_with_the_result(talk):
    core = talk.driver.core
    core.tie_stats = TieStats(stale=3)
    for staleness in (1, 1, -4):
        core.tie_stats.note(Stream.TIE_DOWN, staleness)
    talk.turn()
    talk.finish()
    result, _ = talk.hand_in()
    counters = {"trained": NUM_STEPS, "stale_ties": 3}
    assert counters.items() <= result["counters"].items()
    assert result["staleness"] == {"tie_down": {"-4": 1, "1": 2}}


# Leaving ----------------------------------------------------------------------------------------


def test_a_worker_that_trains_does_not_ask_whether_it_is_over(talk):
    talk.is_over = True
    for state in set(State) - {State.LINKING, State.DONE}:
        talk.driver.core.state = state
        assert not talk.turn()
    assert talk.num_asked == 0


def test_a_worker_leaves_when_the_result_is_safe(talk):
    assert not talk.finish()
    talk.is_over = True
    assert not talk.turn()
    assert talk.num_asked == 1  # it asks now and then
    talk.clock.now_s += 2 * ASK_EVERY_S
    assert talk.turn()


def test_a_worker_that_finds_nobody_leaves_when_all_is_over(talk):
    """The others may have left while it was away."""
    talk.driver.core.state = State.LINKING
    assert not talk.turn()
    talk.is_over = True
    talk.clock.now_s += 2 * ASK_EVERY_S
    assert talk.turn()


def test_a_result_that_is_never_safe_is_an_error_in_the_end(talk):
    talk.finish()
    talk.clock.now_s += reporting.COORDINATOR_PATIENCE_S
    assert not talk.turn()
    talk.clock.now_s += 2 * ASK_EVERY_S
    with pytest.raises(TimeoutError, match="no result is safe after 3600 s"):
        talk.turn()


def test_where_the_job_stops_early_it_leaves_after_a_while(talk):
    """A neighbour may still need to hear what was said last. Nobody makes a result of it: once the
    coordinator asked for one in time, and wrote the summary of a run of 100,000 steps of which
    199,826 were lost."""
    assert not talk.finish(end=NUM_STEPS - 4)
    (report,) = talk.heard("report")
    assert not report["finished"]
    talk.order("hand-in")
    assert not talk.turn()
    assert talk.heard("result") == []
    talk.clock.now_s += 0.9 * STOP_LINGER_S
    assert not talk.turn()
    talk.clock.now_s += 0.2 * STOP_LINGER_S
    assert talk.turn()
    assert talk.num_asked == 0


# The block's time -------------------------------------------------------------------------------


def measured(talk: Conversation) -> Any:
    """The answer of a worker that is done, whose coordinator asks for its block's time."""
    talk.finish()
    talk.order("measure")
    talk.turn()
    assert talk.heard("measured") == []
    talk.driver.compute()
    talk.turn()
    (answer,) = talk.heard("measured")
    talk.turn()
    assert talk.heard("measured") == []
    return answer


def test_a_block_is_timed_alone_on_its_last_inputs(talk):
    talk.driver.last_inputs = {Stream.ACTIVATION: ACTIVATION, Stream.TIE_DOWN: TIE}
    talk.block.forward_s = 0.00390625  # a power of 2, so that sums are exact
    answer = measured(talk)
    assert answer == {"kind": "measured", "block": 1, "step_s": 0.00390625, "cpu_s": 0.001953125}
    last = NUM_STEPS - 1
    step = [("forward", last, ACTIVATION), ("update", last), ("apply", last, None, TIE)]
    assert talk.block.calls == step * (reporting.WARM_UP_STEPS + reporting.MEASURED_STEPS)


def test_a_stall_is_in_a_blocks_time_as_it_is_in_training(talk):
    talk.driver.last_inputs = {Stream.ACTIVATION: ACTIVATION}
    talk.block.forward_s, talk.block.stall_s = 0.00390625, 0.25
    answer = measured(talk)
    stall_s = 0.25 / reporting.MEASURED_STEPS
    assert answer["step_s"] == pytest.approx(0.00390625 + stall_s)
    assert answer["cpu_s"] == pytest.approx((0.00390625 + stall_s) / 2)


def test_a_slow_block_is_timed_a_few_times(talk):
    talk.driver.last_inputs = {Stream.ACTIVATION: ACTIVATION}
    talk.block.forward_s = 2 * TIME_ALONE_S
    assert measured(talk)["step_s"] == 2 * TIME_ALONE_S
    assert len(talk.block.calls) == 3 * (reporting.WARM_UP_STEPS + reporting.MIN_MEASURED_STEPS)


def test_the_lowest_block_needs_no_input_to_be_timed(talk):
    talk.begin(k=0)
    talk.block.forward_s = 0.015625
    assert measured(talk)["step_s"] == 0.015625
    assert talk.block.calls[0] == ("forward", NUM_STEPS - 1, None)


def test_a_block_that_has_had_no_step_to_repeat_says_so(talk):
    """A life that begins behind the last step has seen no input."""
    assert measured(talk) == {"kind": "measured", "block": 1, "step_s": None}
    assert talk.block.calls == []
