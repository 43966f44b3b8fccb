"""A job on two hosts, with network namespaces in their place: one run of each kind."""

import pytest

from benchmarks.hosts.campaign import Case, reference, run_case
from benchmarks.hosts.namespaces import why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "namespaces can be made")

CASES = (
    Case(kind="starts", how="torchrun"),
    Case(kind="starts", how="env", ipv6=True),
    Case(kind="rank-kill", how="torchrun"),
    Case(kind="preempt", how="env"),
    Case(kind="link-down:5", how="env"),
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    return reference(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.how}")
def test_job_on_two_hosts_ends_with_the_weights_of_one(case, expected, tmp_path):
    record = run_case(case, expected, tmp_path)
    assert record["wrong"] == [], record["text"]


def test_address_that_can_not_be_reached_is_told_within_fifteen_seconds(expected, tmp_path):
    """No step, and nothing said for 760 s; the error came after 610 s, in a worker's log only."""
    record = run_case(Case(kind="unreachable", how="env"), expected, tmp_path)
    assert record["wrong"] == [], record["text"]
