"""Starts python -m benchmarks.exactness."""

from benchmarks.exactness.cells import main
from benchmarks.harness import run_command

run_command(main)
