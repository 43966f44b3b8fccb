"""Of which machine simulated figures are, and that it is said."""

import pytest

from benchmarks.scale.origin import KEY, origin, origin_line

HERE = {"machine": "EPYC, 24 GiB", "cores": "2", "commit": "new", "date": "today"}
PROBED = {"machine": "EPYC, 24 GiB", "cores": "2", "commit": "old"}


def line(figures_of, header=HERE):
    simulated = {KEY: figures_of, "header": header}
    return origin_line([{"system": "real", "header": header}, simulated])


def test_origin_is_of_the_figures_that_are_taken():
    records = [
        {"figures": {}, "header": HERE},
        {"figures": {}, "header": PROBED | {"date": "before"}},
        {"case": "lag 0", "header": HERE},
    ]
    assert origin(records) == PROBED
    assert origin([{"figures": {}}])["machine"] == "not recorded"
    assert origin([]) == {}


def test_this_machine_is_told_with_the_commit_that_measured_it():
    assert line(PROBED).endswith("this machine, EPYC, 24 GiB, 2 cores (commit old)")


@pytest.mark.parametrize("other", [{"machine": "Xeon, 8 GiB"}, {"cores": "64"}])
def test_another_machine_is_told(other):
    """What was simulated by the checked-in machine's figures stood beside real runs of another,
    below that one's header, and nothing said so."""
    told = line(PROBED, HERE | other)
    assert "ANOTHER machine, EPYC, 24 GiB, 2 cores (commit old)" in told
    assert next(iter(other.values())) in told


def test_usual_figures_are_of_no_machine():
    assert "no machine that was measured" in line({})


def test_records_of_earlier_versions_do_not_say():
    assert "not recorded" in origin_line([{"system": "simulated", "header": HERE}])
