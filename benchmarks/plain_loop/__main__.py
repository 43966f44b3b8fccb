"""Starts python -m benchmarks.plain_loop."""

from benchmarks.harness import run_command
from benchmarks.plain_loop.comparison import main

run_command(main)
