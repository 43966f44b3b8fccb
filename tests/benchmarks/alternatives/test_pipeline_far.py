"""The main job over a wide-area link: real processes, whose edges go through the proxy."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.wan.proxy import WanProxy

ROOT = Path(__file__).parents[3]


def test_all_that_a_worker_dials_goes_through_the_proxy(tmp_path):
    flags = ["--model", "mlp", "--data", "digits", "--workers", "3", "--steps", "4"]
    flags += ["--link", "zmq-tcp", "--quick-end", "--run-dir", str(tmp_path / "run")]
    with WanProxy(rtt_s=0.01, bits_per_s=1e9) as proxy:
        command = [sys.executable, "-m", "benchmarks.alternatives.pipeline_far", proxy.control]
        done = subprocess.run(
            [*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert proxy.num_ways == 3  # two edges, and the way to the coordinator
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["steps"] == 4
