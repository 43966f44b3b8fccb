"""What a program says of itself before its processes are there."""

import subprocess
import sys
import time
from pathlib import Path

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
