"""Which cells are compared, and that a difference in any of them fails the whole."""

import pytest
import torch

from benchmarks.exactness import cells as exactness
from benchmarks.exactness.cells import (
    DIGESTS,
    HOWS,
    MORE_WIRES,
    WIRES,
    Cell,
    Options,
    by_one_loop,
    cells,
)
from launch.config import ConfigError
from launch.config_file import parse
from models.registry import RESNETS
from models.ties import RULES


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


CELL = Cell(model="mlp", workers=2, tie="elastic", lag=1, overlap="1")
NUM_WIRED = 7 * len(WIRES) + 1
NUM_MLP = 1 + 2 * 11 + 3 + NUM_WIRED


def test_cells_are_all_combinations_that_mean_something():
    found = list(cells())
    num_staged = len(RESNETS) + len(HOWS) + len(WIRES) + len(MORE_WIRES)
    assert len(found) == len(set(found)) == 2 * (1 + 2 * 11) + 6 + NUM_WIRED + num_staged
    for cell in found:
        assert cell.tie != "none" or cell.lag == 0
        assert cell.workers > 1 or (cell.tie, cell.overlap) == ("none", "0")
    tied = {(c.tie, c.lag) for c in found if c.workers == 4 and c.model == "resnet-small"}
    wired = {(c.tie, c.lag, "ties" in c.how) for c in found if "wire" in c.how}
    assert wired >= {(tie, lag, True) for tie in RULES if tie != "none" for lag in (0, 1)}
    assert ("none", 0, False) in wired
    assert tied >= {(tie, lag) for tie in RULES if tie != "none" for lag in (0, 1, 3)}


def test_every_cell_has_flags_that_resolve_to_it():
    """The overlaps of the staged ones are whole stages, and so unequal to 1."""
    for cell in cells():
        config = parse(cell.flags(2), prog="test")
        assert (config.model, config.workers, config.tie) == (cell.model, cell.workers, cell.tie)


def test_flags_of_a_cell_are_the_main_jobs():
    config = parse(CELL.flags(7), prog="test")
    assert (config.model, config.workers, config.tie, config.lag) == ("mlp", 2, "elastic", 1)
    assert (config.overlap, config.steps, config.batch_size, config.threads) == (1, 7, 16, 1)


@pytest.mark.usefixtures("threads")
def test_loop_of_a_cell_has_both_digests_and_repeats():
    found = by_one_loop(CELL, 2)
    assert found.keys() == set(DIGESTS)
    assert by_one_loop(CELL, 2) == found
    assert by_one_loop(CELL, 3) != found


@pytest.fixture
def compare(monkeypatch, capsys):
    """Compare the mlp's cells, of which some differ; give the exit code and what was printed."""
    equal = dict.fromkeys(DIGESTS, "a" * 64)
    monkeypatch.setattr(exactness, "header", dict)
    monkeypatch.setattr(exactness, "by_one_loop", lambda cell, steps: equal)

    def compare(*different: Cell, how: str = "") -> tuple[int, str]:
        def by_processes(cell: Cell, steps: int) -> dict[str, str]:
            return equal | ({"state_sha256": "b" * 64} if cell in different else {})

        monkeypatch.setattr(exactness, "by_processes", by_processes)
        with pytest.raises(SystemExit) as ended:
            exactness.main(Options(model="mlp", how=how))
        return ended.value.code, capsys.readouterr().out

    return compare


def test_comparison_of_equal_cells_ends_with_0(compare):
    code, out = compare()
    assert code == 0
    assert f"{NUM_MLP} of {NUM_MLP} cells equal" in out
    assert "DIFFERENT" not in out


def test_comparison_with_a_different_state_ends_with_1(compare):
    code, out = compare(CELL)
    assert code == 1
    assert f"{NUM_MLP - 1} of {NUM_MLP} cells equal" in out
    assert out.count("DIFFERENT") == 1


def test_comparison_of_cells_with_a_flag_leaves_the_others_out(compare):
    code, out = compare(CELL, how="wire")
    assert code == 0
    assert f"{NUM_WIRED} of {NUM_WIRED} cells equal" in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            Options(model="resnet81"),
            "no cell has model 'resnet81'; choose from mlp, resnet-small, ",
        ),
        (Options(model="mlp", how="lars"), "no such cell has how 'lars'; choose a part of --wire"),
    ],
)
def test_choice_of_no_cell_is_refused_with_the_names_there_are(options, told):
    """A model that does not exist gave "0 of 0 cells equal", and exit code 0."""
    with pytest.raises(ConfigError, match=told):
        exactness.main(options)
