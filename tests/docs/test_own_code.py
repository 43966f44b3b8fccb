"""The worked examples of docs/own-code.md run as they are printed, bit for bit as the loop does."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.network import build_plain
from models.registry import load_network

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-code.md").read_text("utf-8")
SHORT = "--steps 3 --batch-size 16 --threads 1 --quick-end"


def run(program: str, flags: list[str], directory: Path) -> dict:
    run_dir = directory / Path(program).stem
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *flags, "--run-dir", str(run_dir)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary: dict = json.loads((run_dir / "summary.json").read_text())
    return summary


@pytest.mark.parametrize("name", ["predsim.py", "staged.py"])
def test_example_trains_and_equals_the_sequential_program(name, tmp_path):
    _, section = PAGE.split(f"Save this as `{name}`")
    code, *_ = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(rf"^    python (launch/pipeline.py .*{name}.*)$", PAGE, re.MULTILINE)
    (tmp_path / name).write_text(code, "utf-8")
    program, *flags = shlex.split(f"{command} {SHORT}")
    processes, loop = (run(p, flags, tmp_path) for p in (program, "launch/sequential.py"))
    assert processes["state_sha256"] == loop["state_sha256"]
    assert all(block["loss"] > 0 for block in processes["blocks"])


def test_weights_of_a_run_load_into_a_plain_module(tmp_path):
    _, section = PAGE.split("## What a run has learned")
    code, *_ = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (name,) = re.findall(r'load_network\("(\S+)"', code)
    flags = f"--model {name} --data synthetic:3x32x32x8 --steps 1 --batch-size 4 --quick-end"
    run("launch/sequential.py", shlex.split(flags), tmp_path)
    names: dict[str, object] = {}
    exec(code.replace("RUN", str(tmp_path / "sequential")), names)
    learned = names["plain"].state_dict()["layer1.0.conv1.weight"]
    untrained = load_network(name, (3, 32, 32), seed=0)
    assert not torch.equal(
        learned, build_plain(untrained, seed=0).state_dict()["layer1.0.conv1.weight"]
    )
