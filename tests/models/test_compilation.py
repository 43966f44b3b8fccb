"""Units compiled each by itself: what that changes, and what it must leave alone."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import compilation
from models.block import LocalBlock
from models.compilation import what_lacks
from models.numerics import Numerics
from models.sequential import train

# AdamW makes whole steps of gradients that are rounding alone, as of a bias below BatchNorm.
LEARNING = {"tie": "gradient", "optimizer": "sgd"}
CUT, BLANKS = (0, 2), (torch.zeros(10, 1, 2, 2), torch.zeros(10, 3))


@pytest.fixture
def compiled(cut_blocks, tmp_path, monkeypatch) -> Callable[[], list[LocalBlock]]:
    """Blocks whose units have been compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def make() -> list[LocalBlock]:
        blocks = cut_blocks(CUT, **LEARNING, numerics=Numerics(compile=True))
        for block, blank in zip(blocks, BLANKS, strict=True):
            block.compile_units(blank)
        return blocks

    return make


@pytest.fixture
def calls(monkeypatch) -> list[nn.Module]:
    """The units that are to be compiled, which they are not."""
    found: list[nn.Module] = []

    def compile(forward, *, dynamic):
        found.append(forward.__self__)
        return forward

    monkeypatch.setattr(torch, "compile", compile)
    return found


def values(blocks: list[LocalBlock]) -> dict[str, Tensor]:
    return {f"{k} {n}": t.clone() for k, b in enumerate(blocks) for n, t in b.state().items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_each_unit_is_compiled_by_itself_and_its_state_stays(cut_blocks, compiled, calls):
    plain = values(cut_blocks(CUT, **LEARNING))
    blocks = compiled()
    assert len(calls) == 2 + 1 + 3  # home and guest of the lower block, and the other's home
    found = values(blocks)
    assert found.keys() == plain.keys()
    assert_same(found, plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler has many
def test_compiled_blocks_train_alike_each_time(cut_blocks, compiled):
    from torch._dynamo.utils import counters

    counters.clear()
    plain = cut_blocks(CUT, **LEARNING)
    runs = [compiled(), compiled()]
    # a; b, and d alike; c as a guest, and e alike; c as a home's first, with an input that needs no
    # gradient.
    assert counters["stats"]["unique_graphs"] == 4
    for blocks in (plain, *runs):
        train(blocks, num_steps=3, lag=1)
    first, second = map(values, runs)
    assert_same(first, second)
    for name, value in values(plain).items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize(
    ("variables", "lacks"),
    [
        ({"PATH": "/nowhere"}, r"a C\+\+ compiler: g\+\+ or clang\+\+ is not on the PATH"),
        ({"PATH": "/nowhere", "CXX": "icpx"}, r"icpx is not on the PATH"),
    ],
)
def test_host_without_a_compiler_says_what_it_lacks(monkeypatch, variables, lacks):
    monkeypatch.delenv("CXX", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert re.search(lacks, what_lacks())


def test_user_without_a_home_is_asked_for_a_place(monkeypatch):
    def no_home(path: Path) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", no_home)
    for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert re.search("a place for what is compiled: a home directory", what_lacks())


def test_place_that_can_not_be_made_is_named(monkeypatch, tmp_path):
    """XDG_CACHE_HOME=/proc/x was a unit of the user's that raised FileNotFoundError."""
    (tmp_path / "file").touch()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(compilation.shutil, "which", lambda name: f"/usr/bin/{name}")
    lacks = what_lacks()
    assert re.search(r"file/loco-runtime.*' can't be made \(not a directory\)", lacks)
    assert "XDG_CACHE_HOME, or TORCHINDUCTOR_CACHE_DIR" in lacks
