"""A user's own code by name, and what is said when the name is wrong."""

import math

import pytest

from models.dotted import load_dotted, load_function, unknown_name


def test_it_finds_an_attribute_and_an_attribute_of_one():
    assert load_dotted("math:pi", "model") == math.pi
    assert load_dotted("collections.abc:Iterable.__name__", "model") == "Iterable"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math", "package.module:attribute"),
        ("math:", "package.module:attribute"),
        (":pi", "package.module:attribute"),
        (".math:pi", "package.module:attribute"),
        ("./math.py:pi", "package.module:attribute"),
        ("no_such_module:pi", "no module 'no_such_module'"),
        ("math.no_such:pi", r"no module 'math\.no_such'"),
        ("math:sqtr", "did you mean 'sqrt'"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(name, message):
    with pytest.raises(ValueError, match=message):
        load_dotted(name, "model")


def test_an_error_inside_the_users_module_is_his_to_see(tmp_path, monkeypatch):
    (tmp_path / "broken_model.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_dotted("broken_model:build", "model")


def test_a_function_must_be_callable():
    assert load_function("math:sqrt", "model")(4) == 2
    with pytest.raises(ValueError, match="is a float"):
        load_function("math:pi", "model")


def test_an_unknown_name_brings_the_nearest_and_the_list():
    message = str(unknown_name("resnet81", "model", ["resnet18", "mlp"]))
    assert "did you mean 'resnet18'" in message
    assert "resnet18, mlp" in message
