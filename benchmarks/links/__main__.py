"""Starts python -m benchmarks.links."""

from benchmarks.harness import run_command
from benchmarks.links.comparison import main

run_command(main)
