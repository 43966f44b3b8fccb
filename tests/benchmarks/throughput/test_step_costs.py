"""What a step costs beside computing, over blocks and runs."""

from benchmarks.throughput.step_costs import COSTS, make_step_costs_table, step_costs

from .test_report import RECORDS, make_record


def test_costs_of_a_step_are_medians_over_blocks_and_runs():
    def ours(run: int, *overhead_s: float):
        rest = dict.fromkeys(COSTS[1:], 0.4)
        blocks = [{"overhead_s": s} | rest for s in overhead_s]
        return make_record("ours", run, 19.0, link="shm", summary={"blocks": blocks})

    records = [ours(0, 0.04, 0.12), ours(1, 0.08), *RECORDS]
    case = "4 blocks, 1 MB, undisturbed"
    assert step_costs(records) == {case: {"overhead_s": 0.002} | dict.fromkeys(COSTS[1:], 0.01)}
    table = make_step_costs_table(records)
    assert table is not None
    assert [list(column.cells) for column in table.columns[:3]] == [[case], ["2.00"], ["10.00"]]
    assert make_step_costs_table(RECORDS) is None
