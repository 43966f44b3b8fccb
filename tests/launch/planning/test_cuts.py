"""At which units a run is cut: the user's cuts, the architecture's stages, and balanced ones."""

import re
from dataclasses import replace

import pytest

from launch.config import ConfigError
from launch.config_file import parse, to_toml
from launch.planning import cuts as module
from launch.planning.costs import Cost, Costs, counted_costs
from launch.planning.memory import block_memory
from launch.planning.partition import Partition
from launch.resolve import dump, resolve, restore

from ..runs import MACHINE, light, resolved

GIM = {"overlap": 0, "batch_size": 16}


def all_partitions(num_units: int, overlap: int) -> list[Partition]:
    """Every cut into two blocks."""
    found = []
    for cut in range(1, num_units):
        if overlap <= num_units - cut:
            found.append(Partition(num_units=num_units, cuts=(0, cut), overlaps=(overlap,)))
    return found


def test_own_cuts_stay_if_they_serve_and_auto_balances():
    assert resolved().config.cuts == (0, 1, 2, 3)
    own, auto = resolved(**GIM), resolved(**GIM, cuts="auto")
    assert own.config.cuts == (0, 1, 2, 3)
    costs = counted_costs(auto)
    worst = [max(costs.of(b).step for b in run.partition.blocks) for run in (own, auto)]
    assert auto.config.cuts != own.config.cuts
    assert worst[1] < worst[0]


@pytest.mark.parametrize("depth", [(0,), (1,), (0, 2)])
def test_heads_and_guests_count_in_the_balance(depth):
    run = resolved(workers=2, decoder_depth=depth)
    costs = counted_costs(run)
    worst = {
        partition.cuts: max(costs.of(block).step for block in partition.blocks)
        for partition in all_partitions(5, 1)
    }
    assert worst[run.config.cuts] == min(worst.values())


def test_deep_head_moves_the_cut():
    shallow, deep = (resolved(workers=2, decoder_depth=(0, n)).config.cuts for n in (0, 8))
    assert shallow < deep


def test_bound_on_memory_moves_the_cut_and_holds():
    free = resolved(**GIM, workers=2, cuts="auto")
    needed = {
        p.cuts: max(block_memory(free, b).total / 1e6 for b in p.blocks)
        for p in all_partitions(5, 0)
    }
    least = min(needed.values())
    bound = int(least) + 1
    assert needed[free.config.cuts] > bound
    tight = resolved(**GIM, workers=2, max_memory_mb=bound)
    assert needed[tight.config.cuts] <= bound
    with pytest.raises(ConfigError, match=rf"give --max-memory-mb {bound}, or a smaller"):
        resolved(**GIM, workers=2, max_memory_mb=bound - 1)


def test_stages_that_do_not_fit_give_way():
    run = resolved(**GIM)
    needed = max(block_memory(run, b).total / 1e6 for b in run.partition.blocks)
    other = resolved(**GIM, max_memory_mb=int(needed))
    assert other.config.cuts not in run.network.cuts
    assert resolved(**GIM, max_memory_mb=int(needed) + 1).config.cuts in run.network.cuts


def test_three_workers_get_the_papers_cut_with_whole_stages():
    """The local units of the paper: (S1 S2), (S2 S3), (S3 S4); with ResNet-50 guests of 4 and 6."""
    run = light(model="resnet50", data="synthetic:3x32x32x8", workers=3, batch_size=2)
    assert (run.config.cuts, run.config.overlap) == ((0, 4, 8), (4, 6))
    assert [len(block.home) for block in run.partition.blocks] == [4, 4, 9]
    own = light(model="resnet50", data="synthetic:3x32x32x8", workers=4, batch_size=2)
    assert (own.config.cuts, own.config.overlap) == ((0, 1, 4, 8), (3, 4, 6))


def test_overlap_stage_of_a_network_without_stages_is_refused():
    with pytest.raises(ConfigError, match="overlap stage is not allowed for model 'mlp', which"):
        light(model="mlp", overlap="stage")


def test_given_cuts_that_do_not_fit_are_refused_with_a_remedy():
    with pytest.raises(ConfigError) as caught:
        light(cuts=(0, 2), max_memory_mb=1, data="synthetic:1x8x8x4096", batch_size=4096)
    message = str(caught.value)
    found = re.fullmatch(
        r"max-memory-mb 1 is too little: worker 0 takes about (\S+) MB; give --max-memory-mb (\d+),"
        r" --cuts auto, or a smaller --batch-size",
        message,
    )
    assert found is not None, message
    assert float(found[1]) <= int(found[2]) < float(found[1]) + 1


def test_end_to_end_is_bounded_too():
    with pytest.raises(ConfigError, match=r"MB; give --max-memory-mb [0-9]+, or a smaller"):
        resolved(method="e2e", batch_size=512, max_memory_mb=20)


@pytest.mark.parametrize("max_memory_mb", [None, 80])
def test_choice_is_written_down_and_found_again(tmp_path, max_memory_mb):
    run = resolved(cuts="auto", max_memory_mb=max_memory_mb)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(run.config))
    again = resolve(parse(["--config", str(file)], prog="x"), environment=MACHINE)
    assert again.config == run.config
    assert isinstance(run.config.cuts, tuple)


@pytest.fixture
def stopwatch(monkeypatch):
    """Times as they might be measured: the last unit takes longest, which no FLOP tells."""
    units = tuple(Cost(step / 3, step) for step in (1.0, 1.0, 1.0, 9.0))
    costs = Costs(measured=True, units=units, guests=units, heads=((Cost(0.1, 0.3),) * 2,) * 4)
    monkeypatch.setattr(module, "measured_costs", lambda *_, **__: costs)
    return costs


def test_measured_times_decide_if_they_are_asked_for(stopwatch):
    settings = {"workers": 2, "overlap": 0}
    assert light(**settings, cuts="auto").config.cuts == (0, 1)
    run = light(**settings, cuts="profiled")
    assert run.config.cuts == (0, 3)
    assert run.measured == replace(stopwatch, source=run.source_s)
    restored = restore(dump(run))
    assert (restored.measured, restored.source_s) == (run.measured, run.source_s)
    assert restore(dump(light(**settings))).measured is None
