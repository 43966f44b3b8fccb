"""Starts python -m benchmarks.memory."""

from benchmarks.harness import run_command
from benchmarks.memory.peaks import main

run_command(main)
