"""A user's afternoon, from an empty folder: own network, pictures and loss, a death, a stop."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from PIL import Image

from launch.shown_progress import HOW_FAR

from .conftest import ROOT, assert_nothing_is_left

NET = """
from torch import nn

def stage(given, channels, stride):
    conv = nn.Conv2d(given, channels, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

def build():
    return nn.Sequential(stage(3, 8, 1), stage(8, 16, 2), stage(16, 16, 1), stage(16, 32, 2))
"""
LOSS = """
class Agreement:
    uses_labels, head_features = False, 16

    def __call__(self, projections_2BD, labels_B):
        first, second = projections_2BD.chunk(2)
        return (first - second).square().mean() + 1 - projections_2BD.std(0).clamp(max=1).mean()

def loss(temperature, num_classes):
    return Agreement()
"""
COLOURS = {
    "apple": (200, 40, 40),
    "coal": (40, 40, 40),
    "leaf": (40, 180, 60),
    "sky": (60, 90, 210),
}
STEPS = 400


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder, with nothing but what they wrote into it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    (folder / "loss.py").write_text(LOSS)
    draw = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 12)):
        for name, colour in COLOURS.items():
            where = folder / "photos" / split / name
            where.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(draw.normal(colour, 60, (16, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(where / f"{i}.png")
    return folder


def told(err: str) -> list[str]:
    """All lines of standard error, but for how far a slow machine is in decoding the pictures."""
    return [line for line in err.splitlines() if HOW_FAR.search(line) is None]


@pytest.mark.slow
@pytest.mark.timeout(300)  # five programs, one of which is stopped and resumed
def test_own_network_pictures_and_loss_outlive_a_death_and_a_stop(start, folder):
    flags = ["--model", "net.py:build", "--data", "folder:photos", "--objective", "loss.py:loss"]
    flags += ["--batch-size", "16", "--steps", str(STEPS), "--report-every-s", "0.2"]
    flags += ["--workers", "3", "--threads", "1"]

    run = start(*flags, cwd=folder, names_dir=False)
    run.await_own_dir()
    os.kill(run.await_step(1, 20)["pid"], signal.SIGKILL)
    again = run.await_step(1, 120)
    run.process.send_signal(signal.SIGINT)
    code, out, err = run.end()
    assert code == 128 + signal.SIGINT, out + err
    assert "worker 1 was killed by SIGKILL" in out
    assert not psutil.pid_exists(again["pid"])
    newest = max((run.dir / "checkpoints").glob("*/manifest.json")).parent
    step = int(newest.name.partition("-")[0])
    assert told(err) == [
        "pipeline: SIGINT: stopping at a checkpoint (at most 10 s; again: at once)",
        f"pipeline: stopped by SIGINT; the last complete checkpoint is of step {step}: the same"
        f" command with --run-dir {run.dir} resumes from there",
    ]
    assert_nothing_is_left(run)

    resumed = start(*flags, cwd=folder, run_dir=run.dir)
    code, out, err = resumed.end()
    assert (code, told(err)) == (0, [f"pipeline: resumes from step {step} ({newest})"]), out
    assert f"{STEPS} steps; this command took" in out
    logs = [path.read_text() for path in (run.dir / "logs").glob("worker-*.log")]
    assert len(logs) == 3
    for log in logs:  # what workers write to standard error is there
        assert re.findall(".*(?:Traceback|Warning).*", log) == []
    assert_nothing_is_left(resumed)

    alone = start(*flags, cwd=folder, script="sequential.py")
    code, out, err = alone.end()
    assert (code, told(err)) == (0, []), out
    assert resumed.summary["state_sha256"] == alone.summary["state_sha256"]

    command = [sys.executable, str(ROOT / "launch" / "evaluate.py"), str(run.dir)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, told(done.stderr)) == (0, [])
    assert "folder:photos: 160 training and 48 test images of 4 classes" in done.stdout
    (last,) = [line.split() for line in done.stdout.splitlines() if line.startswith("3 ")]
    linear, knn = (float(figure) for figure in last[-2:])
    assert min(linear, knn) > 0.6  # a quarter by chance
