"""Real runs without a fixed lag: they end whatever dies, and say how old the ties were."""

from .conftest import SMALL, assert_nothing_is_left

FREE = (*SMALL, "--quick-end", "--report-every-s", "0.1", "--workers", "3", "--free-ties")


def test_run_with_free_ties_bears_a_death_within_its_bound(start):
    run = start(*FREE, "--steps", "40", "--max-staleness", "4", "--faults", "kill:1@20")
    run.await_step(2, 2)
    code, out, err = run.end()
    assert code == 0, out + err
    assert "free ties" in out + err
    assert "can't be reproduced" in out + err
    summary = run.summary
    assert summary["batches"]["trained"] == 120
    assert len(summary["restarts"]) == 1
    ties = [block["staleness"] for block in summary["blocks"]]
    assert [set(tie) for tie in ties] == [{"tie_down"}, {"tie_up", "tie_down"}, {"tie_up"}]
    for found in (spread for tie in ties for spread in tie.values()):
        assert 32 <= found["num"] <= 40
        assert found["median"] <= found["p95"] <= found["max"] <= 4
    assert_nothing_is_left(run)


def test_gradients_that_cross_in_bf16_are_added_as_they_arrive(start):
    """Several messages of one step were added in the type in which they crossed."""
    wire = ("--tie", "gradient", "--wire-precision", "bf16", "--wire-ties")
    run = start(*FREE, *wire, "--steps", "40", "--faults", "kill:1@20")
    code, out, err = run.end()
    assert code == 0, out + err
    assert run.summary["batches"]["trained"] == 120
    assert run.summary["batches"]["bad"] == 0
    assert_nothing_is_left(run)
