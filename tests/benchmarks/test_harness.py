"""What every benchmark stands on: headers, files that grow, medians."""

import pytest

from benchmarks.harness import Results, Spread, header, median_and_spread


def test_header_says_where_and_when():
    assert header().keys() == {"commit", "date", "machine", "cores", "python", "torch", "load"}
    assert all(header().values())


def test_results_are_read_back_in_order(tmp_path):
    results = Results(tmp_path / "new" / "a.jsonl")
    assert results.read() == []
    results.append({"a": 1})
    results.append({"b": [2.5]})
    assert Results(results.path).read() == [{"a": 1}, {"b": [2.5]}]


def test_a_line_cut_off_by_a_crash_is_removed_and_written_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2, "b')
    results = Results(path)
    results.append({"a": 2})
    assert results.read() == [{"a": 1}, {"a": 2}]


def test_median_and_spread():
    assert median_and_spread([3.0, 1.0, 2.0]) == Spread(median=2.0, lowest=1.0, highest=3.0)
    assert median_and_spread([1.0, 2.0]).median == 1.5
    with pytest.raises(ValueError, match="at least once"):
        median_and_spread([])
