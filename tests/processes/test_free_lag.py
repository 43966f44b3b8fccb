"""Real runs without a fixed lag: they end whatever dies, and say how old the ties were."""

import json

import pytest

from .conftest import SMALL, assert_nothing_is_left

FREE = (*SMALL, "--quick-end", "--report-every-s", "0.1", "--workers", "3", "--lag", "free")


def test_a_run_with_free_ties_bears_a_death_and_keeps_its_bound(start):
    run = start(*FREE, "--steps", "40", "--max-staleness", "4", "--faults", "kill:1@20")
    run.await_step(2, 2)
    code, out, err = run.end()
    assert code == 0, out + err
    assert "lag free" in out + err
    assert "can't be reproduced" in out + err
    summary = run.summary
    assert (summary["batches"]["trained"], summary["batches"]["lost"]) == (120, 0)
    assert len(summary["restarts"]) == 1
    ties = [block["staleness"] for block in summary["blocks"]]
    assert [set(tie) for tie in ties] == [{"tie_down"}, {"tie_up", "tie_down"}, {"tie_up"}]
    for found in (spread for tie in ties for spread in tie.values()):
        assert 32 <= found["num"] <= 40
        assert found["median"] <= found["p95"] <= found["max"] <= 4
    assert_nothing_is_left(run)


@pytest.mark.slow
def test_a_starved_worker_replays_and_a_flooded_one_loses_batches(start):
    run = start(
        *(*FREE, "--tie", "gradient", "--steps", "60", "--window", "2", "--trace"),
        *("--on-starved", "replay", "--on-full", "drop-oldest"),
        *("--faults", "slow:1@0x8+30,kill:0@40"),
    )
    run.await_step(0, 2)
    code, out, err = run.end()
    assert code == 0, out + err
    lost = [block["lost"] for block in run.summary["blocks"]]
    below = [block["dropped_below"] for block in run.summary["blocks"]]
    replayed = [block["replayed_steps"] for block in run.summary["blocks"]]
    batches = run.summary["batches"]
    assert lost[0] == 0 < lost[1] <= lost[2]
    assert below == [0, lost[1], lost[2] - lost[1]]
    assert batches["lost"] == sum(lost)
    assert batches["trained"] + batches["lost"] == 3 * 60
    assert batches["sent"] == sum(60 - gone for gone in lost[1:])
    assert replayed[0] == 0 < replayed[2]
    assert batches["replayed_steps"] == sum(replayed)
    assert f"{sum(replayed)} replayed steps" in out
    assert len(run.summary["restarts"]) == 1
    events = json.loads((run.dir / "trace.json").read_text())["traceEvents"]
    assert {"replay", "staleness of worker 1"} <= {event["name"] for event in events}
    assert_nothing_is_left(run)
