"""What a program says of itself before its processes are there."""

import subprocess
import sys
import time
from pathlib import Path

from launch.config import RunConfig, to_toml
from launch.program import measured_before

ROOT = Path(__file__).parents[2]


def test_command_time_is_the_process_own():
    """It stood on the kernel's boot time in whole seconds: a run took longer than its command."""
    code = "from launch.program import command_time; print(command_time())"
    before_t = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    printed_t = float(done.stdout)
    assert before_t - 0.02 <= printed_t <= time.time()  # the kernel counts in hundredths


def test_resumed_run_has_the_cuts_that_were_measured(tmp_path):
    """Another measurement may find others, and the run would not end as it was to end."""
    config = RunConfig(cuts="profiled", run_dir=tmp_path)
    assert measured_before(config) == config
    began = RunConfig(workers=2, cuts=(0, 3))
    (tmp_path / "config.toml").write_text(to_toml(began))
    assert measured_before(config).cuts == (0, 3)
    for other in ({"fresh": True}, {"workers": 3}, {"overlap": 2}, {"model": "mlp"}):
        config = RunConfig(**({"cuts": "profiled", "run_dir": tmp_path} | other))
        assert measured_before(config).cuts == "profiled"
    assert measured_before(RunConfig(cuts="auto", run_dir=tmp_path)).cuts == "auto"
