"""README.md is a front page whose example runs, and every page names what exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [
    "README.md",
    "benchmarks/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
MAX_LINES = 150
FOLDERS = "launch|models|runtime|benchmarks|tests|docs"


def test_example_runs_as_it_is_printed(tmp_path):
    (name,) = re.findall(r"Save this as `(\S+)`", README)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (command,) = re.findall(rf"^    python (launch/pipeline.py .*{name}.*)$", README, re.MULTILINE)
    (tmp_path / name).write_text(code, "utf-8")
    program, *flags = shlex.split(f"{command} --steps 3 --quick-end --run-dir run")
    for flag in ("--model", "--data", "--objective"):
        assert flags[flags.index(flag) + 1].startswith(f"{name}:")

    run = subprocess.run(
        [sys.executable, str(ROOT / program), *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "3 workers, 3 steps of 64 samples: 0 | 1 | 2" in run.stdout
    assert "6 sent, 9 trained" in run.stdout
    assert (tmp_path / "run/weights.safetensors").is_file()


def test_front_page_is_short():
    assert len(README.splitlines()) <= MAX_LINES


def test_front_page_links_to_every_page():
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README))
    assert linked == {page for page in PAGES if page.startswith("docs/")}


def test_make_targets_exist():
    targets = re.findall(r"^    make ([\w-]+)", README, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony is not None
    assert set(targets) == set(phony[1].split())


@pytest.mark.parametrize("page", PAGES)
def test_each_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text("utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", PAGES)
def test_each_file_that_is_named_exists(page):
    pattern = rf"(?<![\w/])((?:{FOLDERS})/[\w/-]+\.(?:py|md|jsonl|png))\b"
    named = re.findall(pattern, (ROOT / page).read_text("utf-8"))
    assert named or page == "docs/configuration.md"
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md", *PAGES])
def test_each_benchmark_that_is_named_can_be_started(page):
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"(?:-m |`)benchmarks\.([\w.]*\w)", text)
    paths = [ROOT / "benchmarks" / name.replace(".", "/") for name in named]
    starts = [path / "__main__.py" if path.is_dir() else path.with_suffix(".py") for path in paths]
    assert [start for start in starts if not start.is_file()] == []


def test_each_benchmark_has_a_row():
    text = (ROOT / "benchmarks/README.md").read_text("utf-8")
    rows = re.findall(r"^\| [^|]+ \| `(\w+)", text, re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py")}
    assert set(rows) == folders


def leads_somewhere(page: str, link: str) -> bool:
    """Whether the file is there and has the heading that follows the #."""
    path, _, anchor = link.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    return file.exists() and (not anchor or anchor in anchors(file))


def anchors(file: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
