"""A job on two hosts, with network namespaces in their place: one run of each kind."""

import pytest

from benchmarks.hosts import s3
from benchmarks.hosts.campaign import Case, reference, run_case
from benchmarks.hosts.job import HostsJob, write_secret
from benchmarks.hosts.namespaces import Hosts, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "namespaces can be made")

CASES = (
    Case(kind="starts", how="env", disks="own"),
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            Case(kind="starts", how="torchrun"),
            Case(kind="starts", how="env", ipv6=True),
            Case(kind="preempt", how="env"),
            Case(kind="rank-kill", how="torchrun"),
            Case(kind="link-down:5", how="env"),
        )
    ),
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    return reference(tmp_path_factory.mktemp("reference"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.how}-{case.disks}")
def test_job_on_two_hosts_ends_with_the_weights_of_one(case, expected, tmp_path):
    if case.disks == "own" and s3.missing():
        pytest.skip(f"{', '.join(s3.missing())} not installed here; pip install -e '.[dev]'")
    record = run_case(case, expected, tmp_path)
    assert record["wrong"] == [], record["text"]


def test_hosts_that_share_no_disk_and_are_given_no_store_are_refused(tmp_path):
    """No checkpoint was ever complete, with exit code 0 and no warning: a crash began anew."""
    own = tmp_path / "own"
    own.mkdir()
    with Hosts(2, own_dirs=(own,)) as hosts:
        secret = write_secret(tmp_path / "secret")
        job = HostsJob(
            hosts=hosts,
            how="env",
            ranks=(1, 1),
            flags=("--steps=4", "--threads=1", f"--secret-file={secret}"),
            run_dir=own / "run",
            work=tmp_path / "work",
        )
        job.start()
        assert job.finish(60.0)
        assert job.codes == [2, 2], job.text
        (line,) = [line for line in job.text.splitlines() if "error:" in line]
        assert "rank 1 (host host-1) does not see the checkpoint directory" in line
        assert "give --checkpoint-dir a directory or URL that all hosts see" in line
        assert job.end() == []


@pytest.mark.slow
def test_address_that_can_not_be_reached_is_told_within_fifteen_seconds(expected, tmp_path):
    """No step, and nothing said for 760 s; the error came after 610 s, in a worker's log only."""
    record = run_case(Case(kind="unreachable", how="env"), expected, tmp_path)
    assert record["wrong"] == [], record["text"]
