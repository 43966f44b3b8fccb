"""Starts python -m benchmarks.alternatives."""

from benchmarks.alternatives.comparison import main
from benchmarks.harness import run_command

run_command(main)
