"""The script for a machine with a GPU, as far as one without can tell."""

import json
import subprocess
import sys
from importlib import metadata

import pytest

from benchmarks.gpu import needs, script
from benchmarks.gpu.script import PARTS, Options, main
from benchmarks.harness import ROOT, Results
from launch.config import ConfigError


def test_what_a_machine_lacks_is_named_with_the_commands_that_bring_it(monkeypatch, capsys):
    def version(name: str) -> str:
        if name in ("pyzmq", "msgpack"):
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(needs.metadata, "version", version)
    needs.print_needs()
    said = capsys.readouterr().out
    assert said.startswith("this machine lacks pyzmq msgpack. ")
    assert "pip download -d wheels --only-binary :all:" in said
    assert "pip install --no-index --find-links wheels 'pyzmq>=26.4' 'msgpack'" in said


def test_needs_stand_on_python_alone():
    """The machine may have nothing else yet."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROBE, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("this machine lacks torch numpy pyzmq msgpack")


PROBE = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.argv = ["gpu", "--needs"]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (Options(only=("bit",)), "only bit; give some of tests step bits kills links memory"),
        (Options(), "there is no GPU here; give --dry-run"),
    ],
)
def test_what_can_not_be_run_is_refused(options, why, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=why):
        main(options)


def test_part_that_fails_is_no_obstacle_to_the_next(monkeypatch, tmp_path, capsys):
    def fail(options, folder):
        raise RuntimeError("no luck")

    for name in PARTS:
        monkeypatch.setitem(PARTS, name, lambda options, folder: {"told": "fine", "wrong": ""})
    monkeypatch.setitem(PARTS, "bits", fail)
    file = tmp_path / "gpu.jsonl"
    with pytest.raises(SystemExit) as caught:
        main(Options(dry_run=True, json=file))
    assert caught.value.code == 1
    header, *records = map(json.loads, file.read_text().splitlines())
    assert header["gpu"] == "none"
    assert [record["part"] for record in records] == list(PARTS)
    assert {record["part"]: record["wrong"] for record in records if record["wrong"]} == {
        "bits": "RuntimeError: no luck"
    }
    assert "no luck" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_dry_run_shows_every_part(tmp_path):
    file = tmp_path / "gpu.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", f"--json={file}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, *records = map(json.loads, file.read_text().splitlines())
    assert [record["part"] for record in records] == list(PARTS)


def test_step_with_other_bits_keeps_its_times(monkeypatch, tmp_path):
    """The comparison ends with 1 then, as it does if it fails before it has a record."""

    def run(command):
        file = Results(tmp_path / "step.jsonl")
        file.append({"seconds": {"loop": [0.5], "block": [0.6]}, "same_bits": False})
        return subprocess.CompletedProcess(command, 1, stdout="DIFFERENT", stderr="")

    monkeypatch.setattr(script, "_run", run)
    found = script.step(Options(dry_run=True), tmp_path)
    assert found["wrong"] == "other bits"
    assert found["told"].startswith("block to loop 1.200")
