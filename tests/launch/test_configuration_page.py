"""docs/configuration.md says what the config's own dataclass says."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from launch.config import RunConfig
from launch.configuration_page import page

ROOT = Path(__file__).parents[2]


def test_page_in_docs_is_the_one_that_the_program_makes():
    remedy = "run python -m launch.configuration_page docs/configuration.md"
    assert page() == (ROOT / "docs/configuration.md").read_text("utf-8"), remedy


def test_each_field_has_one_row_of_six_cells():
    rows = [line for line in page().splitlines() if line.count("|") == 7][2:]
    assert [row.split("`")[1] for row in rows] == [
        field.name.replace("_", "-") for field in fields(RunConfig)
    ]


def test_row_holds_choices_default_docstring_and_remedies():
    rows = {line.split("`")[1]: line for line in page().splitlines() if line.startswith("| `")}
    assert "| `gradient`, `elastic`, `follow`, `none` | `elastic` | How the two" in rows["tie"]
    assert "| a whole number | – |" in rows["lag"]
    assert "; without it 1. | result | give 0 or more" in rows["lag"]
    assert rows["running"].startswith("| `running` | says how the run is run")
    assert "| a whole number | – |" in rows["workers"]
    assert "| a whole number | `0` |" in rows["seed"]
    assert "| `exact`, `fp16`, `bf16`: one, or one per edge | `exact` |" in rows["wire-precision"]
    assert rows["cuts"].endswith("in rising order, such as 0,1,2,3 |")
    assert "begin with 0, the first unit of the network; " in rows["cuts"]


def test_program_writes_the_page_to_a_path(tmp_path):
    command = [sys.executable, "-m", "launch.configuration_page"]
    subprocess.run([*command, str(tmp_path / "page.md")], cwd=ROOT, check=True, timeout=30)
    assert (tmp_path / "page.md").read_text("utf-8") == page()
    printed = subprocess.run(command, cwd=ROOT, check=True, timeout=30, capture_output=True)
    assert printed.stdout.decode() == page()
