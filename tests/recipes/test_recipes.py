"""Each recipe is read, planned and run for a step, on synthetic images of the true shape."""

import io
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from launch.config import RunConfig
from launch.config_file import parse, to_toml
from launch.environment import Environment
from launch.planning.memory import block_memory
from launch.planning.report import render_plan
from launch.resolve import resolve

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
SHAPES = {"cifar10": "3x32x32", "fashion": "1x28x28", "imagenet": "3x224x224"}
MACHINE = Environment(world_size=None, local_world_size=None, cores=2, gpus=0)
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)


def small(recipe: Path) -> RunConfig:
    """All is the recipe's, but for the data and its size, and the length: it must fit a test."""
    config = parse(["--config", str(recipe)], prog="recipe")
    shape = SHAPES[recipe.stem.rpartition("-")[2]]
    few = {"data": f"synthetic:{shape}x16", "image_size": None, "batch_size": 4}
    return replace(config, **few, steps=1, threads=1, config=None)


@every_recipe
def test_target_stands_beside_what_was_measured(recipe):
    head = recipe.read_text().partition("\nm")[0]
    for word in ("# Published: ", f"--config recipes/{recipe.name} --data "):
        assert word in head
    assert re.search(r"^# Measured: (not run[:;,] |.*\d.* commit [0-9a-f]{7})", head, re.MULTILINE)


@every_recipe
def test_file_says_only_what_it_changes(recipe):
    values = tomllib.loads(recipe.read_text())
    config = parse(["--config", str(recipe)], prog="recipe")
    assert set(tomllib.loads(to_toml(replace(config, config=None)))) <= set(values)


@every_recipe
def test_recipe_is_planned(recipe):
    run = resolve(small(recipe), environment=MACHINE)
    if recipe.stem.startswith("loco"):
        guests = [[run.network.units[i].name for i in b.guest] for b in run.partition.blocks]
        assert [{name.partition(".")[0] for name in guest} for guest in guests] == [
            {"layer2"},
            {"layer3"},
            set(),
        ]
    assert all(block_memory(run, block).total > 0 for block in run.partition.blocks)
    console = Console(file=(shown := io.StringIO()), width=200)
    render_plan(run, console, environment=MACHINE)
    assert f"{run.config.model}, {run.config.workers} worker" in shown.getvalue()


@pytest.mark.slow
@every_recipe
def test_recipe_runs_a_step(recipe, tmp_path):
    (tmp_path / "small.toml").write_text(to_toml(small(recipe)))
    program = str(ROOT / "launch" / "pipeline.py")
    flags = ["--config", str(tmp_path / "small.toml"), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, program, *flags, "--quick-end"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(block["loss"] > 0 for block in summary["blocks"])
