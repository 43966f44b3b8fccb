"""The tally of random plans, and that a failing plan fails the campaign and names its seed."""

from collections import Counter
from types import SimpleNamespace

import pytest

from benchmarks.simulated_faults import plans
from benchmarks.simulated_faults.plans import Options, Tally
from runtime.faults.plan import KINDS
from runtime.testing.simulated_faults import Outcome, PlanFailed


def outcome(**fired: int) -> Outcome:
    return Outcome(faults=(), fired=Counter(fired), num_resent=3, num_duplicates=2, num_fenced=1)


def test_plan_counts_once_in_the_row_of_each_of_its_kinds():
    tally = Tally()
    tally.add(["kill", "drop", "kill"], outcome(kill=2, drop=1))
    tally.add(["drop"], outcome())
    assert tally.counts["kill"] == {
        **{"plans": 1, "fired": 2, "resent": 3, "duplicates": 2, "fenced": 1}
    }
    assert tally.counts["drop"]["plans"] == 2
    assert tally.counts["all"] == {
        **{"plans": 2, "fired": 3, "resent": 6, "duplicates": 4, "fenced": 2}
    }


def test_plan_that_failed_shows_in_its_rows():
    tally = Tally()
    tally.add(["kill"], None)
    tally.add(["kill"], outcome(kill=1))
    columns = {column.header: list(column.cells) for column in tally.table().columns}
    ended = dict(zip(columns["fault"], columns["all ended"], strict=True))
    assert ended == dict.fromkeys(KINDS, "yes") | {"kill": "NO: 1", "all": "NO: 1"}


@pytest.fixture
def campaign(monkeypatch, capsys):
    """Run plans of which some seeds fail; give the exit code and what was printed."""
    gc = SimpleNamespace(freeze=lambda: None, set_threshold=lambda most: None)
    monkeypatch.setattr(plans, "gc", gc)
    monkeypatch.setattr(plans, "header", dict)

    def run(*failing: int) -> tuple[int, str, str]:
        def run_plan(seed: int) -> Outcome:
            if seed in failing:
                raise PlanFailed(f"seed {seed}: stuck")
            return outcome()

        monkeypatch.setattr(plans, "run_plan", run_plan)
        with pytest.raises(SystemExit) as ended:
            plans.main(Options(plans=5, first_seed=10))
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def test_campaign_without_a_failure_ends_with_0(campaign):
    code, out, _ = campaign()
    assert code == 0
    assert "5 of 5 plans ended as the plain loop does" in out


def test_campaign_with_failures_ends_with_1_and_their_seeds(campaign):
    code, out, err = campaign(11, 14)
    assert code == 1
    assert "3 of 5 plans ended" in out
    assert "failing seeds: 11, 14" in out
    assert "seed 14: stuck" in err


def test_no_plans_are_refused():
    """ "0 of 0 plans ended as the plain loop does", with exit code 0, says nothing."""
    with pytest.raises(ValueError, match="plans 0; give at least 1"):
        Options(plans=0)
