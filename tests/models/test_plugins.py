"""A user's own code by name, what is said when the name is wrong, and whose fault an error is."""

import math
import sys
from pathlib import Path

import pytest
import torch

from models.data import load_data
from models.objectives import load_objective
from models.optimizers import load_optimizer
from models.plugins import UsersError, call_function, load_dotted, unknown_name
from models.registry import load_network


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's directory, from which names are looked up; what it loaded is forgotten after."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder, **files):
    for name, text in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)


def test_load_finds_an_attribute_and_an_attribute_of_one():
    assert load_dotted("math:pi", "model") == math.pi
    assert load_dotted("collections.abc:Iterable.__name__", "model") == "Iterable"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math", "package.module:attribute"),
        ("math:", "package.module:attribute"),
        (":pi", "package.module:attribute"),
        (".math:pi", "package.module:attribute"),
        ("net.py:", "path/to/file.py:attribute"),
        ("no_such_module:pi", "no module 'no_such_module'"),
        ("math.no_such:pi", r"no module 'math\.no_such'"),
        ("math:sqtr", "did you mean 'sqrt'"),
        ("models.no_such:pi", "models is this project's own package"),
        ("models.mlp:no_such", "models is this project's own package"),
    ],
)
def test_wrong_name_says_what_is_wrong(name, message):
    with pytest.raises(ValueError, match=message):
        load_dotted(name, "model")


def test_function_must_be_callable_with_what_it_is_called_with():
    assert call_function("math:sqrt", "model", 4) == 2
    with pytest.raises(ValueError, match="is a float"):
        call_function("math:pi", "model")
    with pytest.raises(ValueError, match=r"called as f\(\.\.\., lr=\.\.\.\)"):
        call_function("textwrap:dedent", "optimizer", "text", lr=0.1)


def test_unknown_name_brings_the_nearest_and_the_list():
    message = str(unknown_name("resnet81", "model", ["resnet18", "mlp"]))
    assert "did you mean 'resnet18'" in message
    assert "resnet18, mlp" in message
    assert "net.py:model" in str(unknown_name("net.py", "model", ["mlp"]))


# Whose fault it is ------------------------------------------------------------------------------


def test_error_while_the_users_module_is_imported_is_his(here):
    """A missing dependency of his module once read as if the module were missing."""
    write(here, broken_model="import no_such_dependency\n")
    with pytest.raises(UsersError, match="importing broken_model for model") as caught:
        load_dotted("broken_model:build", "model")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


RAISES = """
def load(): return {}["x"]
def factory(**given): raise ValueError("no such file: settings.json")
"""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_data("raises:load", seed=0), "data 'raises:load' raised KeyError: 'x'"),
        (
            lambda: load_network("raises:load", (1, 2, 2), seed=0),
            "model 'raises:load' raised KeyError: 'x'",
        ),
        (
            lambda: load_objective("raises:factory", temperature=1.0, num_classes=2),
            "objective 'raises:factory' raised ValueError: no such file: settings.json",
        ),
        (
            lambda: load_optimizer("raises_too:sgd", [math], lr=1.0, weight_decay=0.0),
            "optimizer 'raises_too:sgd' raised ValueError: of mine",
        ),
    ],
)
def test_users_error_has_its_traceback(here, monkeypatch, call, message):
    """A ValueError inside a user's load() was shown as a line without its traceback."""
    write(here, raises=RAISES, raises_too="def sgd(groups, lr): raise ValueError('of mine')\n")
    monkeypatch.setattr("models.optimizers._groups", lambda *_: [])
    with pytest.raises(UsersError) as caught:
        call()
    assert str(caught.value) == message
    assert caught.value.__cause__.__traceback__ is not None


def test_code_that_leaves_has_failed(here):
    """sys.exit(0) was a job that had ended well."""
    write(here, leaves="raise SystemExit(0)\n")
    with pytest.raises(UsersError, match="leaves:build' raised SystemExit: 0"):
        load_dotted("leaves:build", "model")


def test_users_changes_to_the_process_are_put_back(here):
    lines = ("os.chdir('/')", "torch.set_default_dtype(torch.float64)")
    lines = (*lines, "torch.set_grad_enabled(False)", "torch.set_num_threads(3)")
    write(here, upsets="import os, torch\n" + "\n".join(lines) + "\nbuild = list\n")
    before = torch.get_num_threads()
    call_function("upsets:build", "model")
    assert Path.cwd() == here
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == before != 3


def test_refusal_by_our_code_in_a_users_function_is_a_line(here):
    """He called our NTXent, in his own factory, with a temperature that cannot be."""
    write(here, cold="from models.objectives import NTXent\ndef make(**given): return NTXent(0)\n")
    with pytest.raises(ValueError, match="objective 'cold:make': temperature 0; it must be above"):
        load_objective("cold:make", temperature=1.0, num_classes=2)


# A user's package that is called as one of ours -------------------------------------------------


def test_users_package_named_models_is_loaded_by_its_path(here):
    """His models/net.py could not be named: models was always this project's package."""
    folder = here / "models"
    write(folder, __init__="", layers="WIDTH = 7\n")
    write(
        folder, net="from . import layers\nfrom .layers import WIDTH\ndef build(): return WIDTH\n"
    )
    for name in ("models/net.py:build", f"{folder}/net.py:build"):
        assert call_function(name, "model") == 7
    first = load_dotted("models/net.py:layers", "model")
    assert load_dotted("./models/../models/net.py:layers", "model") is first  # loaded once
    assert load_dotted("models.mlp:mlp", "model").__module__ == "models.mlp"  # ours is still there


def test_package_within_a_package_resolves_relative_imports(here):
    write(here / "outer", __init__="KEY = 3\n")
    write(here / "outer/inner", __init__="from .. import KEY\n", net="from . import KEY as found\n")
    assert load_dotted("outer/inner/net.py:found", "model") == 3
    assert load_dotted("outer/inner/__init__.py:KEY", "model") == 3


def test_file_on_its_own_imports_siblings_and_has_dataclasses(here):
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "import sibling_of_net\n@dataclass\nclass Pair:\n    a: int\n    b: int\n"
        "def build(): return Pair(sibling_of_net.ONE, 2)\n"
    )
    write(here / "my nets", **{"net-v1.2": code}, sibling_of_net="ONE = 1\n")
    path = list(sys.path)
    assert call_function("my nets/net-v1.2.py:build", "model").a == 1
    assert sys.path[: len(path)] == path


def test_folder_that_a_name_cannot_reach_is_pointed_out(here):
    write(here / "models", __init__="", net="def build(): pass\n")
    write(here, math="def build(): pass\n")
    with pytest.raises(ValueError, match="own package, not the folder models in") as caught:
        load_dotted("models.net:build", "model")
    assert str(caught.value).endswith("name the file instead: --model models/net.py:build")
    with pytest.raises(ValueError, match=r"not the file math\.py in .* --data math\.py:build"):
        load_dotted("math:build", "data")


def test_absolute_import_of_a_hidden_package_is_told_a_remedy(here):
    write(here / "models", __init__="", layers="", net="from models.layers import WIDTH\n")
    with pytest.raises(UsersError, match=r"models is this project's own package.*from \. import"):
        load_dotted("models/net.py:build", "model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nest.py:build", r"there is no such file: .*nest\.py \(did you mean 'net\.py'"),
        ("folder.py:build", "is no file: "),
        ("net.py:buidl", r"net\.py has no attribute 'buidl' \(did you mean 'build'"),
        ("net.py:number", "is a int; name a function"),
        (f"{'x' * 300}/net.py:build", r"/x+/net\.py can't be read: file name too long; check"),
        (f"{'x' * 300}:build", r"/x+ can't be read: file name too long; check"),
        ("~nosuch/net.py:build", "'~nosuch/net.py' begins with a home directory that is not known"),
    ],
)
def test_wrong_path_is_refused(here, name, message):
    write(here, net="number = 1\ndef build(): pass\n")
    (here / "folder.py").mkdir()
    with pytest.raises(ValueError, match=message):
        call_function(name, "model")
