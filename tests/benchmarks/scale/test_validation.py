"""The simulator beside real runs: which are compared, and which error is over the aim."""

from benchmarks.harness import Results
from benchmarks.scale.machine_probe import USUAL, latest
from benchmarks.scale.validation import VALIDATION, cases, print_validation


def test_cases_with_large_messages_stop_at_the_memory_bound():
    names = {n: [case.name for case in cases([n], steps=40)] for n in (4, 8)}
    assert "64 MB, zmq-ipc" in names[4]
    assert not [name for name in names[8] if "64 MB" in name]


def test_validation_says_which_error_is_over_the_aim(capsys):
    record = {"case": "lag 0", "workers": 2, "measured_steps_per_s": 10.0}
    errors = [{"simulated_steps_per_s": 10.5, "error": e} for e in (0.05, 0.01, 0.04)]
    print_validation([{"figures": USUAL.facts()}, *(record | error for error in errors)])
    out = capsys.readouterr().out
    assert "+4.0%" in out
    assert "+5.0%" in out
    assert "over 3%" in out


def test_figures_stored_in_the_tree_can_be_read():
    assert latest(Results(VALIDATION).read()).machine.message_s > 0
