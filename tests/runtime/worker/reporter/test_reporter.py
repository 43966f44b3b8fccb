"""A worker's end of its talk with the coordinator: handing in, leaving."""

import hashlib
from collections.abc import Iterator

import pytest
import safetensors.torch
import torch

from runtime import digest
from runtime.core.plan import Stream
from runtime.core.state import State
from runtime.core.tie_stats import TieStats
from runtime.records.schema import Counters
from runtime.state.status_page import Field
from runtime.worker import reporter as reporting
from runtime.worker.reporter import LOOK_EVERY_S, STOP_LINGER_S
from runtime.worker.telemetry import figures_of

from .conversation import HOME, NUM_STEPS, STATE, Clock, Conversation


@pytest.fixture
def talk(memory, monkeypatch) -> Iterator[Conversation]:
    clock = Clock()
    monkeypatch.setattr(reporting, "time", clock)
    conversation = Conversation(memory, clock)
    yield conversation.begin()
    conversation.end()


# The result -------------------------------------------------------------------------------------


def test_result_is_sent_only_when_it_is_asked_for(talk):
    talk.finish()
    talk.turn()
    assert talk.results() == []
    result = talk.hand_in()
    talk.turn()
    assert talk.results() == []
    for _ in range(2):  # by a coordinator that has taken over
        talk.order("hand-in")
    talk.turn()
    assert talk.results() == [result], "it may be large, and each is copied"


def test_result_asked_for_too_early_is_not_there(talk):
    talk.order("hand-in")
    talk.turn()
    talk.finish()
    assert talk.results() == []


def test_result_holds_figures_digests_and_weights(talk):
    talk.telemetry.count_step(NUM_STEPS - 1)
    talk.telemetry.step_done(NUM_STEPS - 1, figures_of(talk.block))
    talk.telemetry.dropped_reports = 2
    talk.page[Field.RETRAINED] = 4
    talk.finish()
    result, weights = talk.hand_in()
    assert result.digests == digest.block_records(1, STATE)
    assert result.last.step == NUM_STEPS - 1
    counters = Counters(sent=12, trained=12, retrained=4, bad_steps=1, dropped_reports=2)
    assert result.counters == counters
    loaded = safetensors.torch.load(weights)
    assert loaded.keys() == HOME.keys()
    assert all(torch.equal(loaded[name], HOME[name]) for name in HOME)


# Reports ----------------------------------------------------------------------------------------


def test_end_is_reported_at_once_and_once(talk):
    talk.turn()
    assert talk.reports() == []
    talk.telemetry.count_step(NUM_STEPS - 1)
    talk.telemetry.step_done(NUM_STEPS - 1, figures_of(talk.block))
    talk.finish()
    (report,) = talk.reports()
    assert (report.state, report.queue_depth) == ("done", 2)
    _, weights = talk.hand_in()
    assert report.result_sha256 == hashlib.sha256(weights).hexdigest()
    assert [record.step for record in report.records] == [NUM_STEPS - 1]
    talk.turn()
    assert talk.reports() == []


def test_reports_go_on_to_say_that_the_result_is_there(talk):
    """The coordinator asks for it by them, also one that has taken over."""
    talk.begin(k=2, every_s=0.0).finish()
    talk.reports()
    talk.turn()
    assert [bool(report.result_sha256) for report in talk.reports()] == [True]


def test_generation_that_begins_behind_the_end_is_healed_by_it(talk):
    talk.begin(generation=1).finish()
    (report,) = talk.reports()
    assert [record.event for record in report.records] == ["restart", "healed"]


def test_report_that_finds_no_room_is_lost_and_counted(talk):
    telemetry = talk.begin(k=2, every_s=0.0).telemetry
    num_turns = 0
    while telemetry.dropped_reports < 3:  # nobody listens
        talk.turn()
        num_turns += 1
    assert len(talk.reports()) == num_turns - 3
    for _ in range(2):  # the first one may not have noticed yet that there is room
        talk.turn()
    assert talk.reports()[-1].dropped_reports == telemetry.dropped_reports


def test_counters_add_up_over_generations(talk):
    for generation in range(2):
        talk.begin(generation=generation)
        for factor in (1, 2):  # within a generation it is the same count that grows
            talk.now(num_resent=factor, num_duplicates=10 * factor, num_fenced=100 * factor)
            talk.num_damaged, talk.num_refused = 1000 * factor, 10_000 * factor
            talk.turn()
    words = (Field.RESENT, Field.DUPLICATES, Field.FENCED, Field.DAMAGED, Field.REFUSED)
    assert [talk.page[word] for word in words] == [4, 40, 400, 4000, 40_000]
    talk.finish()
    result, _ = talk.hand_in()
    names = ("replayed", "duplicates_dropped", "fenced", "damaged", "refused")
    assert [getattr(result.counters, name) for name in names] == [4, 40, 400, 4000, 40_000]


def test_tie_stats_are_told_with_the_result(talk):
    tie_stats = TieStats(stale=3)
    talk.now(tie_stats=tie_stats)
    for staleness in (1, 1, -4):
        tie_stats.note(Stream.TIE_DOWN, staleness)
    talk.turn()
    talk.finish()
    result, _ = talk.hand_in()
    found = result.counters
    assert found.trained == NUM_STEPS
    assert found.stale_ties == 3
    assert result.staleness == {"tie_down": {"-4": 1, "1": 2}}


# Leaving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.DONE, State.LINKING, State.UPDATE])
def test_worker_leaves_when_it_is_told_to_and_says_so(talk, state):
    """Also one that finds nobody, or repeats steps: the others may have left while it was away."""
    talk.now(state=state)
    assert not talk.turn()
    talk.order("leave")
    assert talk.turn()
    assert talk.goodbyes() == 1


@pytest.mark.parametrize("order", ["", "leave it", "LEAVE", "hand-in now", "\0"])
def test_what_is_no_order_is_left_out(talk, order):
    talk.finish()
    talk.order(order)
    assert not talk.turn()
    assert talk.results() == []


def test_coordinator_that_has_moved_is_followed_at_the_end(talk):
    """Its port may be taken when another comes in its place."""
    talk.begin(every_s=0.0).finish()
    talk.move()
    talk.clock.now_s += LOOK_EVERY_S
    talk.turn()
    talk.turn()
    assert [bool(report.result_sha256) for report in talk.reports()]


def test_evaluation_may_take_a_day(talk):
    """Workers gave up after two hours, four times; then the job ended without a summary, and an
    ImageNet takes longer to evaluate."""
    talk.finish()
    talk.clock.now_s += 86_400.0
    assert not talk.turn()


def test_worker_of_a_job_that_stops_early_leaves_after_a_while(talk):
    """A neighbour may still need to hear what was said last. Nobody makes a result of it: once the
    coordinator asked for one in time, and wrote the summary of a run of 100,000 steps of which
    199,826 were lost."""
    assert not talk.finish(end=NUM_STEPS - 4)
    (report,) = talk.reports()
    assert not report.result_sha256
    talk.order("hand-in")
    assert not talk.turn()
    assert talk.results() == []
    talk.clock.now_s += 0.9 * STOP_LINGER_S
    assert not talk.turn()
    talk.clock.now_s += 0.2 * STOP_LINGER_S
    assert talk.turn()
