"""Starts python -m benchmarks.lag."""

from benchmarks.harness import run_command
from benchmarks.lag.sweep import main

run_command(main)
