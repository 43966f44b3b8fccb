"""Starts python -m benchmarks.scale."""

from benchmarks.harness import run_command
from benchmarks.scale.curves import main

run_command(main)
