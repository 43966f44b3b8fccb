"""By what a run knows its user's code."""

import sys
import zipfile
from types import ModuleType

import pytest

from launch.config import RunConfig
from launch.job import LocalLearningJob
from launch.users_code import CodeChanged, digests_of, refuse_other_code

from .runs import light

NET = """
from torch import nn

def build():
    widths = (256, 16, 16, 16)
    return nn.Sequential(*(nn.Sequential(nn.Flatten(), nn.Linear(n, 16)) for n in widths))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a file, a package, a namespace and a zip, from which modules are imported."""
    (tmp_path / "net.py").write_text(NET)
    for folder in ("package", "space"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "inner.py").write_text(NET)
    (tmp_path / "package" / "__init__.py").touch()
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr("zipped.py", NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "z.zip")
    monkeypatch.setitem(sys.modules, "made_in_memory", ModuleType("made_in_memory"))
    return tmp_path


@pytest.mark.parametrize(
    ("model", "is_known"),
    [
        ("net.py:build", True),
        ("net:build", True),
        ("package.inner:build", True),
        ("space.inner:build", True),
        ("package:build", True),
        ("space:build", False),
        ("zipped:build", False),
        ("made_in_memory:build", False),
        ("builtins:build", False),
        ("not_there.inner:build", False),
        ("resnet18-cifar", False),
    ],
)
@pytest.mark.usefixtures("here")
def test_code_in_a_file_is_known_by_its_digest(model, is_known):
    found = digests_of(RunConfig(model=model, data="cifar10:somewhere"))
    assert found.startswith("model ") if is_known else found == ""


def test_digest_is_of_what_the_file_says(here):
    config = RunConfig(model="net.py:build", objective="package/inner.py:build")
    before = digests_of(config)
    (model, digest), (objective, other) = (part.split() for part in before.split(", "))
    assert (model, objective, digest) == ("model", "objective", other)
    (here / "net.py").write_text(NET + "# edited\n")
    assert digests_of(config) != before


def test_worker_does_not_learn_by_code_that_was_edited_since_the_start(here):
    """One that had died came back with the new code, and trained its block by that. The coordinator
    that comes back only records."""
    resolved = light(workers=2, model=f"{here}/net.py:build")
    job = LocalLearningJob(resolved)
    job.take_device(1)
    job.build_block(1)
    (here / "net.py").write_text(NET + "# edited\n")
    LocalLearningJob(resolved).build_block(1)
    with pytest.raises(CodeChanged, match=r"code has changed since the job began, .* put it back"):
        job.build_block(1)
    assert CodeChanged in job.final_errors
    refuse_other_code(light(workers=2).config)
